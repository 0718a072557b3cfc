# The server in one container: docker build -t wsp . && docker run -p 3082:3082 -p 2121:2121 -v wsp:/data wsp
# docs/docker.md has the rest: passive ports, PostgreSQL, one container per service.

FROM python:3.12-slim AS build
WORKDIR /src
RUN python -m venv /opt/wsp
COPY constraints.txt .
COPY pyproject.toml README.md LICENSE ./
COPY alembic alembic
COPY src src
RUN python -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir build -c constraints.txt \
 && /opt/build/bin/python -m build --wheel --outdir /dist \
 && /opt/wsp/bin/pip install --no-cache-dir -c constraints.txt /dist/*.whl

FROM python:3.12-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends tini tzdata \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --user-group --home-dir /data --shell /usr/sbin/nologin wsp \
 && install -d -o wsp -g wsp -m 0700 /data
COPY --from=build /opt/wsp /opt/wsp
ENV PATH=/opt/wsp/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    WSP_DATA_DIR=/data \
    WSP_HTTP_HOST=0.0.0.0 \
    WSP_FTP_HOST=0.0.0.0
USER wsp
WORKDIR /data
VOLUME /data
EXPOSE 3082 2121 990 50000-50999
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s CMD ["python", "-c", \
    "import os, urllib.request as u; u.urlopen(f\"http://127.0.0.1:{os.environ.get('WSP_HTTP_PORT', '3082')}/healthz\", timeout=4)"]
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["wsp", "serve"]
