# Build:  docker build -t dnsfilter .
# Run:    docker run -d --name dnsfilter --network host --read-only --cap-drop ALL --cap-add NET_BIND_SERVICE \
#           -v /etc/dnsfilter:/etc/dnsfilter:ro -v dnsfilter-state:/var/lib/dnsfilter dnsfilter
#
# --network host: behind a published port (-p) the engine sees Docker's own address in place of the client's.
# Groups, exemptions and the query log all go by the client's address and would be meaningless.
# NET_BIND_SERVICE: port 53 is below 1024 and the server is not root. It is the only capability it needs.
# Without a file in /etc/dnsfilter the built-in defaults apply: 127.0.0.1:5335 only.

FROM python:3.11-slim-bookworm AS builder
# A compiler is here for the dependencies that have no wheel on this machine's architecture; it stays in this stage.
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev make \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# --copies: the final stage gives this interpreter, and not the system's, the right to bind port 53.
RUN python -m pip --no-cache-dir wheel --no-deps --wheel-dir /wheel . \
 && python -m venv --copies /opt/dnsfilter \
 && /opt/dnsfilter/bin/python -m pip --no-cache-dir install "$(echo /wheel/*.whl)[signatures]" \
 && /opt/dnsfilter/bin/python -m pip uninstall --yes pip setuptools

FROM python:3.11-slim-bookworm
COPY --from=builder /opt/dnsfilter /opt/dnsfilter
# tzdata: exemptions start and end in local time. ca-certificates: the authorities that remote lists are checked against.
# setcap: --cap-add alone gives nothing to a process that is not root, the capability must stand on the file.
# With --security-opt no-new-privileges it does not count: then lower net.ipv4.ip_unprivileged_port_start on the host.
# The user has a fixed number, so that a volume keeps its owner over upgrades.
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates tzdata libcap2-bin \
 && rm -rf /var/lib/apt/lists/* \
 && setcap cap_net_bind_service=+ep /opt/dnsfilter/bin/python \
 && groupadd --gid 10001 dnsfilter \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/dnsfilter --shell /usr/sbin/nologin dnsfilter \
 && install -d -o dnsfilter -g dnsfilter -m 0750 /var/lib/dnsfilter
# XDG_STATE_HOME: where a configuration without `state` keeps it, so that it lands in the volume below.
ENV PATH=/opt/dnsfilter/bin:$PATH \
    XDG_STATE_HOME=/var/lib \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
# All that is written: last good copies of lists, the journal, the control socket. The rest may be read-only.
VOLUME /var/lib/dnsfilter
# DNS; metrics; administration (on loopback unless configured otherwise).
EXPOSE 53/udp 53/tcp 9153/tcp 9353/tcp
STOPSIGNAL SIGTERM
# Unhealthy when the server is not ready: a listener does not answer, or listed names are not blocked.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["dnsfilter", "status"]
ENTRYPOINT ["dnsfilter"]
CMD ["run"]
