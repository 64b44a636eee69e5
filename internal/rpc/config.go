package rpc

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Config says where a node listens and what it takes from clients. Start from DefaultConfig.
type Config struct {
	// GRPC and HTTP are host:port; port 0 picks a free one.
	GRPC string
	HTTP string
	// Dev allows anonymous work, and therefore the loopback only.
	Dev bool
	// InsecureListen allows other addresses than the loopback without TLS.
	InsecureListen bool
	TLS            TLS

	// MaxConnections bounds each listener; one more is refused.
	MaxConnections int
	// MaxConnectionsPerAddress bounds the connections of one client address; the loopback is exempt; 0: no bound.
	MaxConnectionsPerAddress int
	// MaxStreams bounds the calls at once on one connection.
	MaxStreams int
	// MaxRequestBytes bounds a request after decompression.
	MaxRequestBytes int
	// ConnectionAge is when clients are asked to connect anew, so that load spreads again after nodes restarted; 0: never.
	ConnectionAge time.Duration
	// Recheck is how often live streams and, at every twentieth turn, certificate files are looked at again.
	Recheck time.Duration
	// Tracing makes spans of calls with OpenTelemetry's global provider.
	Tracing bool
}

// TLS names PEM files. Cert and Key come together; CA, where set, verifies client certificates.
type TLS struct {
	Cert string
	Key  string
	CA   string
	// RequireClientCert refuses connections without a client certificate; needs CA.
	RequireClientCert bool
}

// Enabled tells whether the listeners speak TLS.
func (t TLS) Enabled() bool { return t.Cert != "" || t.Key != "" }

// requestOverheadBytes is added to MaxRequestBytes for the frame around the messages.
const requestOverheadBytes = 64 << 10

// DefaultConfig is what a node uses that is told nothing: the loopback, no TLS.
func DefaultConfig() Config {
	return Config{
		GRPC:                     "127.0.0.1:7600",
		HTTP:                     "127.0.0.1:7680",
		MaxConnections:           10_000,
		MaxConnectionsPerAddress: 1_000,
		MaxStreams:               100,
		MaxRequestBytes:          8 << 20,
		ConnectionAge:            30 * time.Minute,
		Recheck:                  2 * time.Second,
	}
}

// Validate reports all that is wrong, a line each.
func (c Config) Validate() error {
	var errs []error
	for _, l := range []struct{ name, addr string }{{"grpc", c.GRPC}, {"http", c.HTTP}} {
		if err := c.validateAddress(l.name, l.addr); err != nil {
			errs = append(errs, err)
		}
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		errs = append(errs, errors.New("tls: cert and key come together; set both or none"))
	}
	if c.TLS.CA != "" && !c.TLS.Enabled() {
		errs = append(errs, errors.New("tls: ca without cert and key has no effect; set them too"))
	}
	if c.TLS.RequireClientCert && c.TLS.CA == "" {
		errs = append(errs, errors.New("tls: require_client_cert needs ca to verify them"))
	}
	for _, n := range []struct {
		name     string
		value    int
		min, max int
	}{
		{"max_connections", c.MaxConnections, 1, 1_000_000},
		{"max_connections_per_address", c.MaxConnectionsPerAddress, 0, 1_000_000},
		{"max_streams", c.MaxStreams, 1, 100_000},
		{"max_request_bytes", c.MaxRequestBytes, 64 << 10, 64 << 20},
	} {
		if n.value < n.min || n.value > n.max {
			errs = append(errs, fmt.Errorf("%s: %d is out of range; %d to %d is allowed", n.name, n.value, n.min, n.max))
		}
	}
	if c.ConnectionAge != 0 && c.ConnectionAge < time.Second {
		errs = append(errs, fmt.Errorf("connection_age: %s is too short; 0 (never) or at least 1s is allowed", c.ConnectionAge))
	}
	// A revoked credential must end its streams within 5 s, certificates be re-read within 60 s (20 turns).
	if c.Recheck < 10*time.Millisecond || c.Recheck > 3*time.Second {
		errs = append(errs, fmt.Errorf("recheck: %s is out of range; 10ms to 3s is allowed", c.Recheck))
	}
	return errors.Join(errs...)
}

func (c Config) validateAddress(name, addr string) error {
	loopback, err := isLoopback(addr)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	case loopback:
		return nil
	case c.Dev:
		return fmt.Errorf("%s: %s is not a loopback address, and --dev allows anonymous work; listen on 127.0.0.1 or leave out --dev", name, addr)
	case c.TLS.Enabled() || c.InsecureListen:
		return nil
	default:
		return fmt.Errorf("%s: %s is not a loopback address; set --tls-cert and --tls-key, or --insecure-listen to send credentials in the clear", name, addr)
	}
}

// isLoopback looks at the literal address: a host name could come to mean another one later, except "localhost".
func isLoopback(addr string) (bool, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return false, fmt.Errorf("%q is not host:port: %w", addr, err)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return false, fmt.Errorf("%q has no valid port: %w", addr, err)
	}
	if host == "localhost" {
		return true, nil
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback(), nil
}
