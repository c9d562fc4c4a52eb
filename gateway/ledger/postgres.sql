-- The books of all replicas, in PostgreSQL 13 or newer. The gateway runs this where the schema is not there yet; a
-- database whose gateway may not create schemas is prepared with it by hand.
--
-- Every row but those of accounts belongs to one replica, which alone writes it: replicas never wait for each other.
-- Times are Unix milliseconds, costs nano-USD. kind: 0 settled, 1 void, 2 expired.

CREATE SCHEMA IF NOT EXISTS pointsman;

CREATE TABLE IF NOT EXISTS pointsman.form (version integer PRIMARY KEY);

CREATE TABLE IF NOT EXISTS pointsman.replicas (
  number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  id uuid NOT NULL UNIQUE,                 -- of the books on a replica's disk
  name text NOT NULL,
  shipped_at timestamptz NOT NULL,
  unshipped bigint NOT NULL                -- entries that it still had then
);

CREATE TABLE IF NOT EXISTS pointsman.accounts (
  id uuid PRIMARY KEY,                     -- of all that follows
  key text NOT NULL, team text NOT NULL, model text NOT NULL, target text NOT NULL, rule text NOT NULL,
  policy text NOT NULL, shadow text NOT NULL, thinks smallint NOT NULL, price_version text
);

CREATE TABLE IF NOT EXISTS pointsman.entries (
  request_id uuid NOT NULL, attempt integer NOT NULL, replica integer NOT NULL, account uuid NOT NULL,
  at_ms bigint NOT NULL, ended_ms bigint NOT NULL, kind smallint NOT NULL,
  input bigint NOT NULL, cached bigint NOT NULL, written bigint NOT NULL, output bigint NOT NULL,
  reasoning bigint NOT NULL, cost_nano bigint NOT NULL, estimated smallint NOT NULL, cause text NOT NULL,
  PRIMARY KEY (request_id, attempt)        -- an entry that is shipped again changes nothing
);

CREATE TABLE IF NOT EXISTS pointsman.totals (
  quarter bigint NOT NULL, replica integer NOT NULL, account uuid NOT NULL, estimated smallint NOT NULL,
  attempts bigint NOT NULL, answered bigint NOT NULL, void bigint NOT NULL, input bigint NOT NULL,
  cached bigint NOT NULL, written bigint NOT NULL, output bigint NOT NULL, reasoning bigint NOT NULL,
  cost_nano bigint NOT NULL,
  PRIMARY KEY (quarter, replica, account, estimated)  -- quarter: of an hour, since 1970
);

INSERT INTO pointsman.form VALUES (1) ON CONFLICT DO NOTHING;
