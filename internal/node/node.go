package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/cluster"
	"github.com/sluice-mq/sluice/internal/config"
	"github.com/sluice-mq/sluice/internal/consume"
	"github.com/sluice-mq/sluice/internal/control"
	"github.com/sluice-mq/sluice/internal/mq/embedded"
	"github.com/sluice-mq/sluice/internal/peer"
	"github.com/sluice-mq/sluice/internal/publish"
	"github.com/sluice-mq/sluice/internal/rpc"
	"github.com/sluice-mq/sluice/internal/rpc/data"
	"github.com/sluice-mq/sluice/internal/secret"
	"github.com/sluice-mq/sluice/internal/snapshot"
	"github.com/sluice-mq/sluice/internal/store"
	"github.com/sluice-mq/sluice/internal/telemetry"
)

// Node is one running process. New, Start and Stop are called in this order by one goroutine.
type Node struct {
	cfg   *config.Config
	log   *slog.Logger
	reg   *prometheus.Registry
	build telemetry.Build
	name  string

	undo cleanups
	// background is what runs beside the listeners; stop ends it, tasks waits for it.
	background context.Context
	stop       context.CancelFunc
	tasks      sync.WaitGroup

	folder    *folder
	box       *secret.Box
	snapshots *snapshot.Holder
	auth      *auth.Authenticator
	server    *rpc.Server
	embedded  *embedded.Store
	clusters  *cluster.Registry
	store     *store.Store
	control   *control.Service // nil without the role
	joined    *peer.Control    // nil with the role control
	peers     *peer.Pool
	publish   *publish.Engine // nil without the role
	consume   *consume.Engine // nil without the role
	data      *data.Service

	setupLink secret.Secret

	serving, draining atomic.Bool
}

// New opens everything a node needs; nothing is served before Start. After an
// error Stop undoes what was opened.
func New(ctx context.Context, cfg *config.Config, log *slog.Logger) (*Node, error) {
	n := &Node{cfg: cfg, log: log, build: telemetry.ReadBuild()}
	n.background, n.stop = context.WithCancel(context.Background())
	for _, step := range []struct {
		name string
		open func(context.Context) error
	}{
		{"data folder", n.openFolder},
		{"telemetry", n.openTelemetry},
		{"snapshot", n.openSnapshot},
		{"listeners", n.openListeners},
		{"secrets", n.openSecrets},
		{"embedded store", n.openEmbedded},
		{"clusters", n.openClusters},
		{"neighbours", n.openPeers},
		{"control plane", n.openControl},
		{"engines", n.openEngines},
		{"services", n.register},
		{"set-up", n.offerSetup},
	} {
		if err := step.open(ctx); err != nil {
			return n, fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return n, nil
}

// Start serves until Stop.
func (n *Node) Start(ctx context.Context) error {
	if err := n.server.Start(); err != nil {
		return err
	}
	if err := n.follow(ctx); err != nil {
		return err
	}
	n.serving.Store(true)
	n.undo.add("ready.json", func(context.Context) error { return n.folder.removeReady() })
	r := ready{GRPC: n.server.GRPCAddr(), HTTP: n.server.HTTPAddr(), PID: os.Getpid(), Node: n.name}
	if err := n.folder.writeReady(r); err != nil {
		return fmt.Errorf("write ready.json: %w", err)
	}
	n.log.Info("node serves", "node", n.name, "grpc", r.GRPC, "http", r.HTTP, "roles", n.cfg.Roles)
	return nil
}

// Stop drains and undoes everything in reverse: readiness off, go-away to
// clients, what is in flight settled and committed, groups left, stores closed.
// ctx bounds the drain; what did not end in time is ended and named.
func (n *Node) Stop(ctx context.Context) error {
	n.serving.Store(false)
	n.draining.Store(true) // the next beat tells the control plane
	var errs []error
	if n.server != nil {
		n.server.GoAway()
	}
	if n.control != nil {
		n.control.SetDraining(true)
	}
	// Both drain at once: they share the time there is.
	var drains sync.WaitGroup
	var failed [2]error
	if n.publish != nil {
		drains.Go(func() { failed[0] = n.publish.Drain(ctx) })
	}
	if n.consume != nil {
		drains.Go(func() { failed[1] = n.consume.Drain(ctx) })
	}
	drains.Wait()
	errs = append(errs, failed[0], failed[1])
	n.stop()
	errs = append(errs, n.undo.run(ctx, n.log))
	n.tasks.Wait()
	return errors.Join(errs...)
}

// Failed delivers the error of a listener that ended by itself.
func (n *Node) Failed() <-chan error { return n.server.Failed() }

// Name is the node's name.
func (n *Node) Name() string { return n.name }

// GRPCAddr and HTTPAddr are the real addresses of the listeners.
func (n *Node) GRPCAddr() string { return n.server.GRPCAddr() }

// HTTPAddr is the real address of the HTTP listener.
func (n *Node) HTTPAddr() string { return n.server.HTTPAddr() }

// Reload reads the certificates again.
func (n *Node) Reload() error { return n.server.Reload() }

// ready says why the node cannot serve yet; nil: it can.
func (n *Node) ready() error {
	switch {
	case !n.serving.Load():
		return errors.New("starting or stopping")
	case n.snapshots.Current().Version == 0:
		return errors.New("no snapshot yet: the control plane was never reached")
	default:
		return nil
	}
}

// self is this node as others see it.
func (n *Node) self() snapshot.Node {
	return snapshot.Node{
		Name: n.name, GRPC: n.advertised(n.server.GRPCAddr()), HTTP: n.advertised(n.server.HTTPAddr()),
		Roles: n.cfg.Roles, Build: n.build.Version, Draining: n.draining.Load(),
	}
}

// advertised puts the configured host in front of a listener's port.
func (n *Node) advertised(addr string) string {
	if n.cfg.Advertise == "" {
		return addr
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return net.JoinHostPort(n.cfg.Advertise, port)
}
