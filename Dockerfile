# An image that holds the daemon as the single file /sandbox-api, for the images that you make:
#   docker build --build-arg COMMIT=$(git rev-parse --short=12 HEAD) -t sandbox-api .
#   COPY --from=sandbox-api /sandbox-api /usr/local/bin/sandbox-api
# With --platform it is cross-compiled; only the snapshot of its memory is taken under qemu-user.
FROM --platform=$BUILDPLATFORM rust:1.95-bookworm AS build
WORKDIR /src
COPY packaging/prerequisites packaging/
RUN packaging/prerequisites
COPY . .
ARG TARGETARCH COMMIT=unknown
RUN --mount=type=cache,target=/cache \
    export arch="${TARGETARCH:-amd64}" SANDBOX_BUILD_CACHE=/cache SANDBOX_BUILD_COMMIT="$COMMIT" \
    && scripts/build --arch "$arch" \
    && cp "dist/sandbox-api-linux-$arch" dist/sandbox-api \
    && cp "dist/sandbox-api-linux-$arch.licenses.txt" dist/sandbox-api.licenses.txt

FROM scratch
COPY --from=build /src/dist/sandbox-api /src/dist/sandbox-api.licenses.txt /
EXPOSE 8080
ENTRYPOINT ["/sandbox-api"]
