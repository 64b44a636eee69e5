package config

import "time"

// bind is the table of all keys: name, where the value lives, what is allowed, what it is for.
// Names of keys are what users write; they may be added, not changed.
func bind(c *Config) []*key {
	b := &binder{}
	b.boolean("dev", &c.Dev, "Anonymous work on the loopback, topics made at their first use; for development only.")
	b.name("node", &c.Node, "Name of this node, unique in the installation. Empty: made at the first start and kept in the data folder.")
	b.text("data", &c.Data, required, "Folder for the snapshot, the control store, the embedded store and keys.")
	b.roles("roles", &c.Roles, "What this node does.")
	b.address("grpc", &c.GRPC, required, "Listener for clients and nodes (gRPC). Port 0 picks a free one.")
	b.address("http", &c.HTTP, required, "Listener for HTTP with JSON, metrics, health and the console. Port 0 picks a free one.")
	b.text("advertise", &c.Advertise, optional, "Host under which clients and other nodes reach this one. Empty: that of the listener.")
	b.boolean("insecure_listen", &c.InsecureListen, "Allow listeners off the loopback without TLS: anyone on the path reads and changes messages and tokens.")
	b.duration("drain_timeout", &c.DrainTimeout, time.Second, 10*time.Minute, "How long stopping may take: clients leave, leases end, positions are committed.")
	b.text("secret_key_file", &c.SecretKeyFile, optional, "File with the key that seals stored secrets, the same on all nodes. Empty: secret.key in the data folder.")

	b.text("tls.cert", &c.TLS.Cert, optional, "PEM file with the certificate chain of the listeners; read again at SIGHUP and every minute.")
	b.text("tls.key", &c.TLS.Key, optional, "PEM file with the key of that certificate; read again with it.")
	b.text("tls.ca", &c.TLS.CA, optional, "PEM file with the CA of client and node certificates; certificates it did not sign are refused.")

	b.addresses("control.addresses", &c.Control.Addresses, "gRPC addresses of the control nodes, for a node without the role control.")
	b.secret("control.token", &c.Control.Token, "Token of this node at the control plane, where it has no client certificate.")

	b.boolean("embedded.enabled", &c.Embedded.Enabled, "Open the embedded store, on a node with the role control and one of producer and consumer.")

	b.enum("log.format", &c.Log.Format, []string{"text", "json"}, "How log lines look.")
	b.enum("log.level", &c.Log.Level, []string{"debug", "info", "warn", "error"}, "Least severe level that is logged.").reload()
	b.integer("log.repeat", &c.Log.Repeat, 1, 100_000, "Lines a second from one place in the code; what is above is counted, and the count is logged.")

	b.address("tracing.endpoint", &c.Tracing.Endpoint, optional, "OTLP collector (gRPC) for traces. Empty: no traces are sent.")
	b.boolean("tracing.insecure", &c.Tracing.Insecure, "Speak to the collector without TLS.")
	b.fraction("tracing.sample", &c.Tracing.Sample, "Share of new traces that are recorded; traces begun by callers follow the caller's choice.")

	b.address("pprof", &c.Pprof, optional, "Listener for profiles, on the loopback only. Empty: off.")

	bindEngines(b, c)
	return b.keys
}
