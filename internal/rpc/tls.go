package rpc

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
)

// certs serves the newest valid certificate pair of its files. Readers take an immutable config from an atomic
// pointer; reload is serialised.
type certs struct {
	files   TLS
	log     *slog.Logger
	metrics *metrics

	grpc atomic.Pointer[tls.Config]
	http atomic.Pointer[tls.Config]

	mu    sync.Mutex // guards bytes, failed
	bytes [3][]byte  // contents of cert, key and CA that are served
	// failed are the contents that were refused last, so that a bad pair is reported once and not at each check.
	failed [3][]byte
}

// newCerts loads the files, or fails.
func newCerts(files TLS, log *slog.Logger, m *metrics) (*certs, error) {
	c := &certs{files: files, log: log, metrics: m}
	return c, c.reload()
}

// reload reads the files and takes what changed. Contents are compared, not times or inodes, so that a swapped
// symbolic link or a copy in place is seen alike. A pair that does not fit leaves the old one in place.
func (c *certs) reload() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	contents, err := c.read()
	if err == nil {
		if same(contents, c.bytes) {
			return nil
		}
		err = c.take(contents)
	}
	if err == nil {
		c.bytes, c.failed = contents, [3][]byte{}
		c.metrics.tlsReloads.WithLabelValues("ok").Inc()
		return nil
	}
	c.metrics.tlsReloads.WithLabelValues("failed").Inc()
	// At the start there is no old one, and the caller says why the node does not start.
	if c.grpc.Load() != nil && (c.failed[0] == nil || !same(contents, c.failed)) {
		c.log.Error("certificate not reloaded, the old one stays", "err", err, "cert", c.files.Cert)
	}
	if contents[0] == nil {
		contents[0] = []byte{} // unreadable: remembered as failed too
	}
	c.failed = contents
	return err
}

func same(a, b [3][]byte) bool {
	return bytes.Equal(a[0], b[0]) && bytes.Equal(a[1], b[1]) && bytes.Equal(a[2], b[2])
}

func (c *certs) read() (contents [3][]byte, err error) {
	for i, f := range []string{c.files.Cert, c.files.Key, c.files.CA} {
		if f == "" {
			continue
		}
		if contents[i], err = os.ReadFile(f); err != nil {
			return [3][]byte{}, fmt.Errorf("tls: %w", err)
		}
	}
	return contents, nil
}

// take builds configurations from file contents and publishes them.
func (c *certs) take(contents [3][]byte) error {
	pair, err := tls.X509KeyPair(contents[0], contents[1])
	if err != nil {
		return fmt.Errorf("tls: %s and %s do not fit: %w", c.files.Cert, c.files.Key, err)
	}
	base := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	if c.files.CA != "" {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(contents[2]) {
			return fmt.Errorf("tls: %s holds no certificate", c.files.CA)
		}
		base.ClientCAs = pool
		base.ClientAuth = tls.VerifyClientCertIfGiven
		if c.files.RequireClientCert {
			base.ClientAuth = tls.RequireAndVerifyClientCert
		}
	}
	g, h := base.Clone(), base.Clone()
	g.NextProtos = []string{"h2"}
	h.NextProtos = []string{"h2", "http/1.1"}
	c.grpc.Store(g)
	c.http.Store(h)
	c.metrics.tlsExpiry.Set(float64(pair.Leaf.NotAfter.Unix()))
	c.log.Info("certificate loaded", "cert", c.files.Cert, "serial", pair.Leaf.SerialNumber.String(), "not_after", pair.Leaf.NotAfter.UTC())
	return nil
}

// server is a configuration that looks up the newest one of which at each handshake.
func (c *certs) server(which *atomic.Pointer[tls.Config]) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: which.Load().NextProtos,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			cfg := which.Load()
			if cfg == nil {
				return nil, errors.New("no certificate loaded")
			}
			return cfg, nil
		},
	}
}
