"""`pointsman init`: a working `pointsman.yaml` from servers, the environment's keys or a LiteLLM file."""
