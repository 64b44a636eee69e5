package config

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/sluice-mq/sluice/internal/telemetry"
)

// The roles of a node.
const (
	Producer = "producer"
	Consumer = "consumer"
	Control  = "control"
)

// Roles are the roles of one node.
type Roles []string

// Has tells whether the node has that role.
func (r Roles) Has(role string) bool {
	return slices.Contains(r, role)
}

// Data tells whether the node moves messages: it has the producer or the consumer role.
func (r Roles) Data() bool { return r.Has(Producer) || r.Has(Consumer) }

// Config is everything a node needs to start. Load makes it; it is read only afterwards.
type Config struct {
	// Dev allows anonymous work on the loopback, and makes topics at their first use.
	Dev   bool
	Node  string // empty: made at the first start and kept in the data folder
	Data  string // folder
	Roles Roles

	GRPC, HTTP     string // host:port; port 0 picks a free one
	Advertise      string // host that other machines reach this node by; empty: that of the listener
	InsecureListen bool   // allow a listener off the loopback without TLS

	TLS     TLS
	Control ControlPlane

	SecretKeyFile string // empty: DIR/secret.key
	DrainTimeout  time.Duration

	Embedded Embedded
	Log      telemetry.LogConfig
	Tracing  telemetry.TracingConfig
	Pprof    string // address on the loopback; empty: off

	engines // settings of the packages that move messages

	values []Value
}

// TLS is how the node's own listeners are secured, and how it proves itself to other nodes.
type TLS struct {
	Cert, Key string // PEM files
	CA        string // PEM file; set: clients may present certificates that it signed
}

// Enabled tells whether the listeners speak TLS.
func (t TLS) Enabled() bool { return t.Cert != "" }

// ControlPlane is where a node without the control role gets its snapshot.
type ControlPlane struct {
	Addresses []string // host:port of control nodes' gRPC listeners
	Token     string   // proves the node to them, where no client certificate does
}

// Embedded is the store inside the node.
type Embedded struct {
	Enabled bool
	engineEmbedded
}

// Default is the configuration that an empty file gives.
func Default() *Config {
	c := &Config{
		Data:         "./sluice-data",
		Roles:        Roles{Producer, Consumer, Control},
		GRPC:         "127.0.0.1:7600",
		HTTP:         "127.0.0.1:7680",
		DrainTimeout: 25 * time.Second,
		Embedded:     Embedded{Enabled: true},
		Log:          telemetry.DefaultLogConfig(),
		Tracing:      telemetry.DefaultTracingConfig(),
	}
	c.setEngineDefaults()
	return c
}

// validate reports what single keys cannot know: rules between keys. Each fault names the key to change.
func (c *Config) validate(fault func(key, text string)) {
	if len(c.Control.Addresses) > 0 && c.Roles.Has(Control) {
		fault("control.addresses", "a node with the role control is the control plane itself; leave the addresses out, or take control out of roles")
	}
	if len(c.Control.Addresses) == 0 && !c.Roles.Has(Control) {
		fault("control.addresses", "a node without the role control needs the addresses of the control plane (--control HOST:PORT,...)")
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		fault("tls.cert", "certificate and key belong together; give both tls.cert and tls.key, or none")
	}
	if c.TLS.CA != "" && c.TLS.Cert == "" {
		fault("tls.ca", "client certificates need TLS; give tls.cert and tls.key too")
	}
	for _, l := range []struct{ key, addr string }{{"grpc", c.GRPC}, {"http", c.HTTP}} {
		switch {
		case loopback(l.addr):
		case c.Dev:
			fault(l.key, fmt.Sprintf("%q is not on the loopback, and --dev lets anyone in who reaches the port; use 127.0.0.1, or leave out --dev", l.addr))
		case !c.TLS.Enabled() && !c.InsecureListen:
			fault(l.key, fmt.Sprintf("%q is not on the loopback and has no TLS; give tls.cert and tls.key, or say --insecure-listen", l.addr))
		}
	}
	if c.Pprof != "" && !loopback(c.Pprof) {
		fault("pprof", fmt.Sprintf("%q is not on the loopback; profiles show memory, so use 127.0.0.1:PORT", c.Pprof))
	}
	c.validateEngines(fault)
}

// loopback tells whether an address can be reached from this machine only. A name other than localhost
// does not count: what it resolves to can change.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}
