package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"slices"

	"github.com/sluice-mq/sluice/internal/config"
	"github.com/sluice-mq/sluice/internal/consume"
	"github.com/sluice-mq/sluice/internal/control"
	"github.com/sluice-mq/sluice/internal/peer"
	"github.com/sluice-mq/sluice/internal/publish"
	"github.com/sluice-mq/sluice/internal/secret"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

// openPeers makes the connections to other nodes; they dial when they are used.
func (n *Node) openPeers(context.Context) error {
	d := peer.Dial{Token: secret.New(n.cfg.Control.Token)}
	if n.cfg.TLS.Enabled() {
		t, err := peerTLS(n.cfg.TLS)
		if err != nil {
			return err
		}
		d.TLS = t
	}
	n.peers = peer.NewPool(d, n.snapshots, n.reg)
	n.undo.add("neighbours", func(context.Context) error { return n.peers.Close() })
	if n.cfg.Roles.Has(config.Control) {
		return nil
	}
	c, err := peer.NewControl(d, n.cfg.Control.Addresses, n.self, n.snapshots, n.part("join"), n.reg)
	if err != nil {
		return err
	}
	n.joined = c
	n.undo.add("control plane", func(context.Context) error { return c.Close() })
	return nil
}

// peerTLS presents the node's own certificate to others, read anew for each connection, so that a renewed one is used.
// One that is for servers only, as public CAs make them, is kept back: the other side would end the handshake over it
// although the node has a token too.
func peerTLS(c config.TLS) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, GetClientCertificate: func(asked *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, err
		}
		if !forClients(pair.Leaf) || asked.SupportsCertificate(&pair) != nil {
			return &tls.Certificate{}, nil
		}
		return &pair, nil
	}}
	if c.CA == "" {
		return t, nil
	}
	pem, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, fmt.Errorf("tls.ca: %w", err)
	}
	t.RootCAs = x509.NewCertPool()
	if !t.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("tls.ca: %s holds no certificate in PEM form", c.CA)
	}
	return t, nil
}

// forClients tells whether a server takes a certificate from a client; one without a list of usages is for all of them.
func forClients(c *x509.Certificate) bool {
	return len(c.ExtKeyUsage) == 0 && len(c.UnknownExtKeyUsage) == 0 ||
		slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth) || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny)
}

func (n *Node) openControl(ctx context.Context) error {
	if !n.cfg.Roles.Has(config.Control) {
		return nil
	}
	s, err := control.New(ctx, control.Config{AutoCreate: n.cfg.Dev}, control.Deps{
		Self: n.self(), Embedded: n.embedded != nil, Store: n.store, Snapshots: n.snapshots, Box: n.box,
		Clusters: n.clusters, Peers: statuses{n}, Log: n.part("control"), Registerer: n.reg,
	})
	if err != nil {
		return err
	}
	n.control = s
	n.undo.add("control plane", s.Close)
	return nil
}

func (n *Node) openEngines(context.Context) error {
	first := firstUse{n}
	if n.cfg.Roles.Has(config.Producer) {
		c := n.cfg.Publish
		c.AutoCreate = n.cfg.Dev
		n.publish = publish.New(c, publish.Deps{
			Clusters: n.clusters, Control: first, Snapshot: n.snapshots, Log: n.part("publish"), Registerer: n.reg,
		})
	}
	if n.cfg.Roles.Has(config.Consumer) {
		n.consume = consume.New(n.cfg.Consume, consume.Deps{
			Clusters: n.clusters, Control: first, Remote: settler{n.peers}, Snapshot: n.snapshots, Node: n.name,
			Log: n.part("consume"), Registerer: n.reg,
		})
	}
	return nil
}

// firstUse asks the control plane, here or elsewhere, for what a first use needs.
type firstUse struct{ n *Node }

func (f firstUse) EnsureTopic(ctx context.Context, topic string) error {
	if f.n.control == nil {
		return f.n.joined.EnsureTopic(ctx, topic)
	}
	_, err := f.n.control.EnsureTopic(ctx, topic)
	return err
}

func (f firstUse) EnsureSubscription(ctx context.Context, group string, settings map[string]snapshot.Settings) error {
	if f.n.control == nil {
		return f.n.joined.EnsureSubscription(ctx, group, settings)
	}
	_, err := f.n.control.EnsureSubscription(ctx, group, settings)
	return err
}
