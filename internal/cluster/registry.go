// Package cluster gives drivers by cluster name, as the snapshot describes the
// clusters: opened at first use, opened anew when addresses or credentials
// change, closed when the cluster is removed.
//
// It owns the drivers that it opened; the embedded store's driver belongs to the
// node. Engines ask for a driver at every use and must not keep it: a driver
// that was replaced is closed after a grace, so that what is under way can end,
// and answers mq.Closed from then on.
package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/secret"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

// Secrets are a cluster's opened secrets.
type Secrets struct {
	Password secret.Secret // SASL
	Key      secret.Secret // PEM of the client certificate's key
}

// Opener makes a driver. It must not wait for the network: a driver connects when it is used. Its metrics go to reg,
// which labels them with the cluster; nil for a trial.
type Opener func(c *snapshot.Cluster, s Secrets, reg prometheus.Registerer) (mq.Driver, error)

// Deps are what a Registry works with.
type Deps struct {
	Snapshots *snapshot.Holder
	Box       *secret.Box
	Openers   map[mq.Kind]Opener
	// Node is this node's name, and Embedded the driver of its own store; nil where it has none.
	Node     string
	Embedded mq.Driver
	// Grace is how long a replaced driver stays open; 0: 30 s.
	Grace      time.Duration
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Registry is safe for use by any number of goroutines.
type Registry struct {
	deps    Deps
	metrics *metrics
	stop    context.CancelFunc
	ended   <-chan struct{} // of the context that stop ends
	work    sync.WaitGroup  // the watcher and the closers

	open atomic.Pointer[map[string]entry] // copied on write; read without mu

	mu     sync.Mutex // orders changes of open; guards closed
	closed bool
}

// entry is an open driver and the description that it was opened from.
type entry struct {
	cluster *snapshot.Cluster
	driver  mq.Driver
	series  *scope
}

// New makes a Registry, with one goroutine that follows the snapshot. Close ends it.
func New(deps Deps) *Registry {
	if deps.Grace == 0 {
		deps.Grace = 30 * time.Second
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &Registry{deps: deps, metrics: newMetrics(deps.Registerer), stop: stop, ended: ctx.Done()}
	r.open.Store(&map[string]entry{})
	r.work.Go(func() { r.follow(ctx) })
	return r
}

// Driver gives the driver of a registered cluster. It fails with
// fault.ClusterNotFound, fault.Unavailable (the embedded store of another node,
// a closed registry), or with what the opener says.
func (r *Registry) Driver(name string) (mq.Driver, error) {
	c := r.deps.Snapshots.Current().Clusters[name]
	if c == nil {
		return nil, fault.New(fault.ClusterNotFound, "cluster %q is not registered; check the name with `sluice cluster list`", name)
	}
	if c.Kind == mq.Embedded {
		return r.embedded(c)
	}
	if e, ok := (*r.open.Load())[name]; ok && (e.cluster == c || sameConnection(e.cluster, c)) {
		return e.driver, nil
	}
	return r.openLatest(name)
}

func (r *Registry) embedded(c *snapshot.Cluster) (mq.Driver, error) {
	if c.Node != r.deps.Node || r.deps.Embedded == nil {
		return nil, fault.New(fault.Unavailable, "cluster %q is the embedded store of node %q, and this is node %q; go to that node, or use a cluster that all nodes reach", c.Name, c.Node, r.deps.Node)
	}
	return r.deps.Embedded, nil
}

func (r *Registry) openLatest(name string) (mq.Driver, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, fault.New(fault.Unavailable, "cluster %q: the node is stopping", name)
	}
	// Read again under the lock: two callers that saw different snapshots must not replace each other's drivers in turn.
	c := r.deps.Snapshots.Current().Clusters[name]
	if c == nil {
		return nil, fault.New(fault.ClusterNotFound, "cluster %q is not registered any more", name)
	}
	old, had := (*r.open.Load())[name]
	if had && sameConnection(old.cluster, c) {
		return old.driver, nil
	}
	series := newScope(r.deps.Registerer, name)
	driver, err := r.openWith(c, series)
	if err != nil {
		return nil, err
	}
	r.replace(name, &entry{cluster: c, driver: driver, series: series})
	if had {
		r.deps.Log.Info("cluster opened anew", "cluster", name)
		r.metrics.reopened.Inc()
		r.retire(name, old.driver, r.deps.Grace)
	}
	return driver, nil
}

// Trial opens a driver for a description that need not be registered; the caller closes it.
func (r *Registry) Trial(c *snapshot.Cluster) (mq.Driver, error) { return r.openWith(c, nil) }

func (r *Registry) openWith(c *snapshot.Cluster, reg prometheus.Registerer) (mq.Driver, error) {
	opener := r.deps.Openers[c.Kind]
	if opener == nil {
		return nil, fault.New(fault.Unsupported, "cluster %q: this build has no driver for kind %q", c.Name, c.Kind)
	}
	var secrets Secrets
	var err error
	if secrets.Password, err = r.unseal(c, "password", c.PasswordPlace(), c.SealedPassword); err != nil {
		return nil, err
	}
	if secrets.Key, err = r.unseal(c, "TLS key", c.KeyPlace(), c.SealedKey); err != nil {
		return nil, err
	}
	driver, err := opener(c, secrets, reg)
	if err != nil {
		return nil, fmt.Errorf("open cluster %q: %w", c.Name, err)
	}
	return driver, nil
}

// unseal opens a secret; a node without the installation's key can do without as long as there is none.
func (r *Registry) unseal(c *snapshot.Cluster, what string, place secret.Place, sealed []byte) (secret.Secret, error) {
	if len(sealed) == 0 {
		return secret.Secret{}, nil
	}
	if r.deps.Box == nil {
		return secret.Secret{}, fault.New(fault.ClusterAuth, "cluster %q: its %s is sealed and this node has no key; copy secret.key from a control node and name it with secret_key_file", c.Name, what)
	}
	plain, err := r.deps.Box.Open(place, sealed)
	if err != nil {
		return secret.Secret{}, fmt.Errorf("cluster %q: %s: %w", c.Name, what, err)
	}
	return secret.New(string(plain)), nil
}

// follow retires drivers of clusters that were removed or changed.
func (r *Registry) follow(ctx context.Context) {
	for {
		changed := r.deps.Snapshots.Changed()
		r.sweep()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (r *Registry) sweep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clusters := r.deps.Snapshots.Current().Clusters
	for name, e := range *r.open.Load() {
		if c := clusters[name]; c == nil || !sameConnection(e.cluster, c) {
			r.replace(name, nil)
			e.series.end()
			r.deps.Log.Info("cluster driver retired", "cluster", name, "removed", c == nil)
			r.retire(name, e.driver, r.deps.Grace)
		}
	}
}

// replace changes one entry of open; e nil removes it. mu is held.
func (r *Registry) replace(name string, e *entry) {
	next := make(map[string]entry, len(*r.open.Load())+1)
	maps.Copy(next, *r.open.Load())
	if e == nil {
		delete(next, name)
	} else {
		next[name] = *e
	}
	r.open.Store(&next)
	r.metrics.open.Set(float64(len(next)))
}

// retire closes a driver after the grace, or at once when the registry is closed. mu is held.
func (r *Registry) retire(name string, d mq.Driver, grace time.Duration) {
	if r.closed {
		return // Close closes what it finds
	}
	r.work.Go(func() {
		wait := time.NewTimer(grace)
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-r.ended:
		}
		ctx, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		if err := d.Close(ctx); err != nil {
			r.deps.Log.Warn("cluster not closed cleanly", "cluster", name, "err", err)
		}
	})
}

// Close closes all drivers but the embedded one, bounded by ctx. Driver fails afterwards.
func (r *Registry) Close(ctx context.Context) error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	drivers := *r.open.Load()
	r.open.Store(&map[string]entry{})
	r.mu.Unlock()
	r.stop()

	errs := make(chan error, len(drivers))
	for name, e := range drivers {
		e.series.end()
		go func() {
			err := e.driver.Close(ctx)
			if err != nil {
				err = fmt.Errorf("close cluster %q: %w", name, err)
			}
			errs <- err
		}()
	}
	var err error
	for range drivers {
		err = errors.Join(err, <-errs)
	}
	r.work.Wait()
	r.metrics.open.Set(0)
	return err
}

// sameConnection tells whether one driver serves both descriptions: labels and versions may differ.
func sameConnection(a, b *snapshot.Cluster) bool {
	return a.Kind == b.Kind && slices.Equal(a.Bootstrap, b.Bootstrap) &&
		a.SASLMechanism == b.SASLMechanism && a.SASLUser == b.SASLUser && bytes.Equal(a.SealedPassword, b.SealedPassword) &&
		a.TLS == b.TLS && bytes.Equal(a.TLSCA, b.TLSCA) && bytes.Equal(a.TLSCert, b.TLSCert) &&
		bytes.Equal(a.SealedKey, b.SealedKey) && a.TLSServerName == b.TLSServerName
}
