package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/cluster"
	"github.com/sluice-mq/sluice/internal/config"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/mq/embedded"
	"github.com/sluice-mq/sluice/internal/mq/kafka"
	"github.com/sluice-mq/sluice/internal/rpc"
	"github.com/sluice-mq/sluice/internal/secret"
	"github.com/sluice-mq/sluice/internal/snapshot"
	"github.com/sluice-mq/sluice/internal/store"
	"github.com/sluice-mq/sluice/internal/telemetry"
)

func (n *Node) part(name string) *slog.Logger { return n.log.With("part", name) }

func (n *Node) openFolder(context.Context) error {
	f, err := openFolder(n.cfg.Data)
	if err != nil {
		return err
	}
	n.folder = f
	n.undo.add("data folder", func(context.Context) error { return f.close() })
	if err := f.removeReady(); err != nil { // of a process that was killed
		return err
	}
	n.name, err = f.nodeName(n.cfg.Node)
	return err
}

func (n *Node) openTelemetry(ctx context.Context) error {
	n.reg = telemetry.NewRegistry(n.build)
	t, err := telemetry.NewTracing(ctx, n.cfg.Tracing, n.build, n.name)
	if err != nil {
		return err
	}
	t.Install()
	n.undo.add("tracing", t.Stop)
	return n.openPprof()
}

// openSnapshot starts from what the disk has. Damaged copies are said loudly; an older one is better than none.
func (n *Node) openSnapshot(context.Context) error {
	n.snapshots = snapshot.NewHolder(n.reg)
	disk, err := snapshot.NewDisk(n.folder.path("snapshot"))
	if err != nil {
		return err
	}
	log := n.part("snapshot")
	s, err := disk.Load()
	if err != nil {
		log.Error("a snapshot on disk cannot be used", "err", err)
	}
	// With the control role the store is the truth, and it is at hand: an old snapshot would only have to be overtaken.
	if s != nil && !n.cfg.Roles.Has(config.Control) {
		if err := n.snapshots.Set(s); err != nil {
			return err
		}
		log.Info("starting from the snapshot on disk", "version", s.Version)
	}
	ctx, stop := context.WithCancel(context.Background())
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		n.snapshots.Keep(ctx, disk, log)
	}()
	n.undo.add("snapshot", func(context.Context) error { stop(); <-kept; return nil })
	return nil
}

func (n *Node) openListeners(context.Context) error {
	n.auth = auth.New(n.cfg.Dev, n.snapshots, time.Now)
	c := n.cfg.RPC
	c.GRPC, c.HTTP, c.Dev, c.InsecureListen = n.cfg.GRPC, n.cfg.HTTP, n.cfg.Dev, n.cfg.InsecureListen
	c.TLS = rpc.TLS{Cert: n.cfg.TLS.Cert, Key: n.cfg.TLS.Key, CA: n.cfg.TLS.CA}
	c.Tracing = n.cfg.Tracing.Endpoint != ""
	s, err := rpc.New(c, rpc.Deps{Auth: n.auth, Ready: n.ready, Gatherer: n.reg, Registerer: n.reg, Log: n.part("rpc")})
	if err != nil {
		return err
	}
	n.server = s
	n.undo.add("listeners", s.Stop)
	return nil
}

// openSecrets opens the key of the secrets at rest. Only a control plane whose store is empty may make one.
func (n *Node) openSecrets(ctx context.Context) error {
	path := n.cfg.SecretKeyFile
	if path == "" {
		path = n.folder.path("secret.key")
	}
	var key []byte
	var err error
	if n.cfg.Roles.Has(config.Control) {
		if err := n.openStore(ctx); err != nil {
			return err
		}
		st, err := n.store.Load(ctx)
		if err != nil {
			return err
		}
		// Receipt keys are sealed from the first start on: without one nothing is.
		if key, err = secret.LoadOrCreateKey(path, len(st.SealedKeys) == 0); err != nil {
			return fmt.Errorf("%w; put back the key file that this installation was made with, or name it with secret_key_file", err)
		}
	} else if key, err = secret.LoadKey(path); errors.Is(err, fs.ErrNotExist) {
		// A node of other roles works without the key as long as no cluster has a password; opening one that has says so.
		return nil
	} else if err != nil {
		return err
	}
	n.box, err = secret.NewBox(key)
	return err
}

func (n *Node) openStore(ctx context.Context) error {
	s, err := store.Open(ctx, n.folder.path("control.db"), time.Now)
	if err != nil {
		return err
	}
	n.store = s
	n.undo.add("control store", func(context.Context) error { return s.Close() })
	return nil
}

// openEmbedded opens the store of a node that is a whole installation by itself.
func (n *Node) openEmbedded(ctx context.Context) error {
	if !n.cfg.Embedded.Enabled || !n.cfg.Roles.Has(config.Control) || !n.cfg.Roles.Data() {
		return nil
	}
	c := n.cfg.Embedded.Store
	c.Dir = n.folder.path("embedded")
	s, err := embedded.Open(ctx, c, n.part("embedded"), n.reg)
	if err != nil {
		return err
	}
	n.embedded = s
	n.undo.add("embedded store", s.Close)
	return nil
}

func (n *Node) openClusters(context.Context) error {
	d := cluster.Deps{
		Snapshots: n.snapshots, Box: n.box, Node: n.name, Log: n.part("cluster"), Registerer: n.reg,
		Openers: map[mq.Kind]cluster.Opener{mq.Kafka: n.openKafka},
	}
	if n.embedded != nil {
		d.Embedded = n.embedded
	}
	n.clusters = cluster.New(d)
	n.undo.add("clusters", n.clusters.Close)
	return nil
}

func (n *Node) openKafka(c *snapshot.Cluster, s cluster.Secrets, reg prometheus.Registerer) (mq.Driver, error) {
	cfg := n.cfg.Kafka
	cfg.Bootstrap, cfg.ClientID = c.Bootstrap, "sluice-"+n.name
	if c.SASLMechanism != "" {
		cfg.SASL = kafka.SASL{Mechanism: c.SASLMechanism, User: c.SASLUser, Password: s.Password.Reveal()}
	}
	if c.TLS {
		t, err := brokerTLS(c, s.Key)
		if err != nil {
			return nil, err
		}
		cfg.TLS = t
	}
	return kafka.Open(cfg, n.part("kafka").With("cluster", c.Name), reg)
}
