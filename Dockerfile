# All programs: docker build --target relay|operator|orders|sandbox . (`make images` builds them all).
#
# BUILD_IMAGE needs Rust, C and C++ compilers, make and perl (librdkafka and OpenSSL are built from source); BASE_IMAGE the
# C library that BUILD_IMAGE has, or a later one, and CA certificates.
ARG BUILD_IMAGE=rust:1.95-bookworm
ARG BASE_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_IMAGE} AS build
ARG PROFILE=release
WORKDIR /src
COPY . .
# What cargo fetches and builds stays with Docker for the next time.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --workspace --all-features --bins --profile "$PROFILE" \
    && mkdir /out \
    && cd "target/$([ "$PROFILE" = dev ] && echo debug || echo "$PROFILE")" \
    && cp outbox-relay outbox-relay-operator orders outbox-sandbox /out/ \
    && strip --strip-debug /out/*

# Numeric, so that Kubernetes can tell that it is not root.
FROM ${BASE_IMAGE} AS base
USER 65532:65532

FROM base AS relay
COPY --from=build /out/outbox-relay /usr/local/bin/
EXPOSE 9090
ENTRYPOINT ["/usr/local/bin/outbox-relay"]

FROM base AS operator
COPY --from=build /out/outbox-relay-operator /usr/local/bin/
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/outbox-relay-operator"]

# For demos and tests, never in production.
FROM base AS sandbox
COPY --from=build /out/outbox-sandbox /usr/local/bin/
EXPOSE 9042 10000
ENTRYPOINT ["/usr/local/bin/outbox-sandbox"]

FROM base AS orders
COPY --from=build /out/orders /usr/local/bin/
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/orders"]
