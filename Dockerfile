# syntax=docker/dockerfile:1
FROM python:3.12-slim AS build
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY sync_hub sync_hub
COPY connectors connectors
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir '.[fast]'

FROM python:3.12-slim
# The folder of the volume has to exist with its owner, or the engine makes it for root.
RUN useradd --uid 10001 --user-group --no-log-init --shell /usr/sbin/nologin --home-dir /hub --no-create-home hub \
    && install -d /hub && install -d -o hub -g hub -m 750 /hub/.sync-hub
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 SYNC_HUB_CONFIG=/hub/config/hub.yaml
USER 10001
WORKDIR /hub
# Mount config/ and mappings/ read-only; only /hub/.sync-hub is written, and nothing at all with a PostgreSQL state.
VOLUME /hub/.sync-hub
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/health/live', timeout=3)"]
ENTRYPOINT ["sync-hub"]
CMD ["run"]
