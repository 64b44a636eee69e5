-- One text for SQLite and PostgreSQL: text, bigint, boolean and bytea mean the
-- same on both (SQLite keeps a blob in a bytea column as it is). Times are
-- milliseconds since 1970, UTC; 0 is none. A row's version is the store's
-- version at its last write.

-- +goose Up
CREATE TABLE meta (
  id               bigint  PRIMARY KEY CHECK (id = 1),
  store_id         text    NOT NULL,
  version          bigint  NOT NULL,
  setup_done       boolean NOT NULL,
  setup_hash       bytea,
  setup_expires_ms bigint  NOT NULL
);

CREATE TABLE clusters (
  name            text    PRIMARY KEY,
  kind            text    NOT NULL,
  bootstrap       text    NOT NULL,
  datacenter      text    NOT NULL,
  side            text    NOT NULL,
  sasl_mechanism  text    NOT NULL,
  sasl_user       text    NOT NULL,
  sealed_password bytea,
  tls             boolean NOT NULL,
  tls_ca          bytea,
  tls_cert        bytea,
  sealed_key      bytea,
  tls_server_name text    NOT NULL,
  node            text    NOT NULL,
  version         bigint  NOT NULL
);

CREATE TABLE topics (
  name          text    PRIMARY KEY,
  epoch         bigint  NOT NULL,
  order_mode    text    NOT NULL,
  block         bigint  NOT NULL,
  owner         text    NOT NULL,
  rate_messages bigint  NOT NULL,
  rate_bytes    bigint  NOT NULL,
  version       bigint  NOT NULL
);

CREATE TABLE homes (
  topic      text   NOT NULL REFERENCES topics (name) ON DELETE CASCADE,
  place      bigint NOT NULL,
  cluster    text   NOT NULL REFERENCES clusters (name),
  physical   text   NOT NULL,
  partitions bigint NOT NULL,
  PRIMARY KEY (topic, place)
);
CREATE INDEX homes_by_cluster ON homes (cluster, physical);

CREATE TABLE consumer_groups (
  name      text    PRIMARY KEY,
  paused    boolean NOT NULL,
  suspended boolean NOT NULL,
  nodes     bigint  NOT NULL,
  version   bigint  NOT NULL
);

CREATE TABLE subscriptions (
  consumer_group text   NOT NULL REFERENCES consumer_groups (name) ON DELETE CASCADE,
  topic          text   NOT NULL,
  order_mode     bigint NOT NULL,
  start_at       text   NOT NULL,
  max_attempts   bigint NOT NULL,
  backoff_min_ms bigint NOT NULL,
  backoff_max_ms bigint NOT NULL,
  drain_ms       bigint NOT NULL,
  takeover       text   NOT NULL,
  run            bigint NOT NULL,
  PRIMARY KEY (consumer_group, topic)
);

CREATE TABLE tokens (
  id         text   PRIMARY KEY,
  hash       bytea  NOT NULL UNIQUE,
  app        text   NOT NULL,
  kind       text   NOT NULL,
  created_ms bigint NOT NULL,
  expires_ms bigint NOT NULL
);

CREATE TABLE receipt_keys (
  id         bigint PRIMARY KEY,
  sealed     bytea  NOT NULL,
  created_ms bigint NOT NULL
);

CREATE TABLE nodes (
  name         text    PRIMARY KEY,
  grpc         text    NOT NULL,
  http         text    NOT NULL,
  datacenter   text    NOT NULL,
  build        text    NOT NULL,
  roles        text    NOT NULL,
  draining     boolean NOT NULL,
  alive        boolean NOT NULL,
  last_seen_ms bigint  NOT NULL
);

-- +goose Down
DROP TABLE nodes;
DROP TABLE receipt_keys;
DROP TABLE tokens;
DROP TABLE subscriptions;
DROP TABLE consumer_groups;
DROP TABLE homes;
DROP TABLE topics;
DROP TABLE clusters;
DROP TABLE meta;
