#!/bin/bash
# A database and its owner for each server, made once, when the volume is new.
set -euo pipefail

for name in mlflow prefect; do
    secret=$(tr '[:lower:]' '[:upper:]' <<<"$name")_DB_PASSWORD
    psql --set ON_ERROR_STOP=1 --username postgres --dbname postgres --set owner="$name" --set secret="${!secret}" <<'SQL'
CREATE ROLE :"owner" LOGIN PASSWORD :'secret';
CREATE DATABASE :"owner" OWNER :"owner";
REVOKE CONNECT ON DATABASE :"owner" FROM PUBLIC;
SQL
done
