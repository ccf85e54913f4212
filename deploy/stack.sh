#!/usr/bin/env bash
# The team's servers of docker-compose.yml. `make stack`, `make stack-down` and `make stack-reset` call it.
#   deploy/stack.sh up [tracking|serving|all]   write .env, build our images, start, wait until healthy, say where
#   deploy/stack.sh down                        stop; the data stays
#   deploy/stack.sh reset                       stop and delete the data, after asking
#   eval "$(deploy/stack.sh client)"            point this shell's tools at the servers
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

compose() {
    local files=(-f docker-compose.yml)
    if [ -n "${GPU:-}" ]; then files+=(-f docker-compose.gpu.yml); fi
    if docker compose version >/dev/null 2>&1; then docker compose "${files[@]}" "$@"; else docker-compose "${files[@]}" "$@"; fi
}

need_docker() {
    command -v docker >/dev/null || fail "docker is not installed. On Debian: apt install docker.io docker-compose"
    docker info >/dev/null 2>&1 || fail "The Docker engine does not answer. Start it, or join the group docker, then run again."
    docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null ||
        fail "Neither \`docker compose\` nor docker-compose is installed. On Debian: apt install docker-compose"
    docker buildx version >/dev/null 2>&1 || export DOCKER_BUILDKIT=0 # Debian's engine: the older builder
}

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

# Random secrets for the names that .env does not have yet; what stands there is never changed.
write_env() {
    local name
    umask 077
    touch .env
    chmod 600 .env
    [ -z "$(tail -c1 .env)" ] || echo >>.env # a last line that has no end would be joined with the next name
    has() { grep -q "^$1=" .env; }
    has COMPOSE_PROJECT_NAME || echo "COMPOSE_PROJECT_NAME=pawprint" >>.env
    for name in POSTGRES_PASSWORD MLFLOW_DB_PASSWORD PREFECT_DB_PASSWORD S3_ACCESS_KEY_ID S3_SECRET_ACCESS_KEY \
        MLFLOW_ADMIN_PASSWORD MLFLOW_SECRET_KEY PREFECT_PASSWORD GRAFANA_PASSWORD SERVICE_ADMIN_TOKEN; do
        has "$name" || echo "$name=$(random)" >>.env
    done
    has SERVICE_ADMIN_SHA256 ||
        echo "SERVICE_ADMIN_SHA256=$(printf %s "$(of SERVICE_ADMIN_TOKEN)" | sha256sum | cut -d' ' -f1)" >>.env
}

of() { sed -n "s/^$1=//p" .env | tail -1; } # a value of .env
or() { if [ -n "${!1:-}" ]; then echo "${!1}"; else v=$(of "$1"); echo "${v:-$2}"; fi; }

# The project's name, which docker takes as a label: with an empty one `down` would mean every folder's.
project() {
    local name
    name=$(of COMPOSE_PROJECT_NAME)
    case $name in
        "" | [!a-z0-9]* | *[!a-z0-9_-]*) fail "COMPOSE_PROJECT_NAME in .env is \"$name\"; it is small letters, digits, - and _. Put it on a line of its own." ;;
    esac
    printf %s "$name"
}

build() {
    if [ "$1" != serving ]; then
        [ -f pyproject.toml ] || fail "MLflow, Prefect and the worker are built from a checkout of pawprint; of a project: make stack PROFILE=serving"
        echo "stack: the image of MLflow, Prefect and the worker (minutes, once)"
        compose build --quiet prepare
        if [ -n "${GPU:-}" ] && [ "$1" = all ]; then compose build --quiet worker; fi
    fi
    if [ "$1" != tracking ]; then
        bentoml get pawprint:latest >/dev/null 2>&1 || fail "There is no Bento to serve yet. Run \`make run\` first."
        echo "stack: the image of the service"
        bentoml containerize pawprint:latest -t pawprint-service:0.1.0 --opt "network=${BUILD_NETWORK:-default}" \
            >.service-image.log 2>&1 && docker image inspect pawprint-service:0.1.0 >/dev/null 2>&1 ||
            fail "BentoML could not build the service's image; .service-image.log says why."
        rm .service-image.log
        if [ -n "${GPU:-}" ]; then compose build --quiet service; fi
    fi
}

# Wait until each container is healthy or has ended with 0; the first other one is named with its last lines.
wait_healthy() {
    local deadline=$((SECONDS + ${STACK_TIMEOUT:-300})) line name state left
    while :; do
        left=""
        while read -r name state; do
            case $state in
                running/healthy | exited//0) ;;
                exited/* | dead/* | */unhealthy*)
                    docker logs --tail 20 "$name" >&2 || true
                    fail "$name is $state; its last lines stand above."
                    ;;
                *) left+=" ${name#*_}" ;;
            esac
        done < <(docker ps -aq --filter "label=com.docker.compose.project=$(of COMPOSE_PROJECT_NAME)" | xargs -r docker inspect --format \
            '{{.Name}} {{.State.Status}}/{{if .State.Health}}{{.State.Health.Status}}{{end}}{{if eq .State.Status "exited"}}/{{.State.ExitCode}}{{end}}' | sed 's|^/||')
        [ -n "$left" ] || return 0
        [ "$SECONDS" -lt "$deadline" ] || fail "Not healthy in time:$left. docker logs NAME says why; STACK_TIMEOUT=600 waits longer."
        sleep 3
    done
}

where() {
    local host bind
    host=$(or PAWPRINT_HOST 127.0.0.1) bind=$(or PAWPRINT_BIND 127.0.0.1)
    echo "stack: all healthy (listening on $bind). Passwords are in .env, by the names on the right."
    if [ "$1" != serving ]; then
        [ -f pyproject.toml ] || fail "MLflow, Prefect and the worker are built from a checkout of pawprint; of a project: make stack PROFILE=serving"
        echo "  MLflow      http://$host:$(or MLFLOW_PORT 5000)   admin   MLFLOW_ADMIN_PASSWORD"
        echo "  S3          http://$host:$(or S3_PORT 8333)   S3_ACCESS_KEY_ID   S3_SECRET_ACCESS_KEY"
    fi
    if [ "$1" = all ]; then echo "  Prefect     http://$host:$(or PREFECT_PORT 4200)   admin:PREFECT_PASSWORD"; fi
    if [ "$1" != tracking ]; then
        echo "  service     http://$host:$(or SERVICE_PORT 3000)   SERVICE_ADMIN_TOKEN"
        echo "  Prometheus  http://$host:$(or PROMETHEUS_PORT 9090)"
        echo "  Grafana     http://$host:$(or GRAFANA_PORT 3001)   admin   GRAFANA_PASSWORD"
    fi
    if [ "$1" != serving ]; then echo 'This shell:  eval "$(deploy/stack.sh client)"   then make run, pawprint doctor'; fi
}

# DVC takes no remote's url from the environment, so it stands in .dvc/config.local; the keys stay in the environment.
write_remote() {
    dvc config --local core.remote >/dev/null 2>&1 && return # somebody's own
    dvc remote add --local --default --force stack s3://dvc/pawprint >/dev/null
    dvc remote modify --local stack endpointurl "http://$(or PAWPRINT_HOST 127.0.0.1):$(or S3_PORT 8333)"
}

case ${1:-} in
    up)
        profile=${2:-all}
        case $profile in tracking | serving | all) ;; *) fail "PROFILE=$profile is none of tracking, serving, all." ;; esac
        need_docker
        write_env
        project >/dev/null
        build "$profile"
        COMPOSE_PROFILES=$profile compose up -d
        wait_healthy
        if [ "$profile" != serving ]; then write_remote; fi
        where "$profile"
        ;;
    down)
        [ -e .env ] || fail "There is no .env here, so no stack was started from this folder."
        project >/dev/null
        need_docker
        COMPOSE_PROFILES=all compose down --remove-orphans
        ;;
    reset)
        [ -e .env ] || fail "There is no .env here, so no stack was started from this folder."
        name=$(project)
        need_docker
        printf 'This deletes every run, model, photograph and log that the stack "%s" keeps. Type its name to go on: ' "$name"
        read -r answer || true
        [ "${answer:-}" = "$name" ] || fail "Nothing was deleted."
        COMPOSE_PROFILES=all compose down --volumes --remove-orphans
        ;;
    env) write_env ;;
    client)
        [ -e .env ] || fail "There is no .env here. Run \`make stack\` first, or ask who runs the servers for theirs."
        host=$(or PAWPRINT_HOST 127.0.0.1)
        say() { printf 'export %s=%q\n' "$1" "$2"; } # quoted: a password may hold what a shell would run
        say MLFLOW_TRACKING_URI "http://$host:$(or MLFLOW_PORT 5000)"
        say MLFLOW_TRACKING_USERNAME admin
        say MLFLOW_TRACKING_PASSWORD "$(of MLFLOW_ADMIN_PASSWORD)"
        say PREFECT_API_URL "http://$host:$(or PREFECT_PORT 4200)/api"
        say PREFECT_API_AUTH_STRING "admin:$(of PREFECT_PASSWORD)"
        say AWS_ENDPOINT_URL "http://$host:$(or S3_PORT 8333)"
        say AWS_ACCESS_KEY_ID "$(of S3_ACCESS_KEY_ID)"
        say AWS_SECRET_ACCESS_KEY "$(of S3_SECRET_ACCESS_KEY)"
        say AWS_DEFAULT_REGION us-east-1
        say PAWPRINT_SERVICE "http://$host:$(or SERVICE_PORT 3000)"
        say PAWPRINT_SERVICE_TOKEN "$(of SERVICE_ADMIN_TOKEN)"
        ;;
    *) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
