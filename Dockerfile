# An image that holds the daemon as the single file /sandbox-api, for the images that you make:
#   docker build --build-arg COMMIT=$(git rev-parse --short=12 HEAD) -t sandbox-api .
#   COPY --from=sandbox-api /sandbox-api /usr/local/bin/sandbox-api
FROM rust:1.95-bookworm AS build
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY packaging/prerequisites packaging/
RUN packaging/prerequisites
COPY . .
ARG TARGETARCH=amd64 COMMIT=unknown
RUN --mount=type=cache,target=/cache \
    SANDBOX_BUILD_CACHE=/cache SANDBOX_BUILD_COMMIT=$COMMIT scripts/build --arch "$TARGETARCH" \
    && cp "dist/sandbox-api-linux-$TARGETARCH" dist/sandbox-api \
    && cp "dist/sandbox-api-linux-$TARGETARCH.licenses.txt" dist/sandbox-api.licenses.txt

FROM scratch
COPY --from=build /src/dist/sandbox-api /src/dist/sandbox-api.licenses.txt /
EXPOSE 8080
ENTRYPOINT ["/sandbox-api"]
