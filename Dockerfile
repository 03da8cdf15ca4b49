# Runs the daemon on a Python base image: docker build -t sandbox-api . && docker run -p 8080:8080 sandbox-api
FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/sandbox-api
COPY requirements.lock .
RUN /opt/sandbox-api/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY sandbox_api sandbox_api
RUN /opt/sandbox-api/bin/pip install --no-cache-dir --no-deps . \
    && /opt/sandbox-api/bin/python -m compileall -q /opt/sandbox-api/lib \
    && /opt/sandbox-api/bin/pip uninstall --yes --quiet pip

FROM python:3.13-slim
# curl: how entrypoint.sh, and most people, talk to the daemon
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends curl \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/sandbox-api /opt/sandbox-api
RUN ln -s /opt/sandbox-api/bin/sandbox-api /usr/local/bin/sandbox-api
COPY entrypoint.sh /entrypoint.sh
WORKDIR /workspace
EXPOSE 8080
ENTRYPOINT ["/entrypoint.sh"]
