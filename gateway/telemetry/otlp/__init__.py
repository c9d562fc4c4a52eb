"""OpenTelemetry: spans and measures of finished requests, sent to a collector over OTLP where that is configured.

Nothing here is imported before `otlp:` of pointsman.yaml asks for it, but for `settings`.
"""
