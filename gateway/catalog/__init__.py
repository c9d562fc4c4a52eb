"""What is publicly known of models and offers: read by `doc`, `facts` and `catalogue`, asked by `query`."""
