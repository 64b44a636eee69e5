package publish

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

// Clusters gives drivers by cluster name; it is asked for every batch and must be quick.
type Clusters interface {
	Driver(name string) (mq.Driver, error)
}

// Control is what the engine asks of the control plane.
type Control interface {
	// EnsureTopic makes a topic that does not exist and returns once it is in the control plane's store.
	EnsureTopic(ctx context.Context, topic string) error
}

// Snapshot gives the newest snapshot; never nil.
type Snapshot interface {
	Current() *snapshot.Snapshot
}

// Deps are what the engine works with.
type Deps struct {
	Clusters   Clusters
	Control    Control // may be nil; asked only with Config.AutoCreate
	Snapshot   Snapshot
	Log        *slog.Logger          // nil: nothing is logged
	Registerer prometheus.Registerer // nil: metrics are counted but shown nowhere
	Now        func() time.Time      // nil: time.Now
}

// Engine publishes. All methods may be called at once from many goroutines.
type Engine struct {
	cfg      Config
	clusters Clusters
	control  Control
	snapshot Snapshot
	log      *slog.Logger
	now      func() time.Time
	m        *metrics
	seed     maphash.Seed // of key hashes; they never leave the process

	targets   targets
	limits    limits
	deadlines deadlines

	ctx    context.Context // ends when Drain gave up or is through
	cancel context.CancelFunc
	wg     sync.WaitGroup // refreshes, loads, retries and held slices

	spawnMu sync.Mutex // makes spawn and the end of ctx exclude one another

	draining atomic.Bool
	inFlight atomic.Int64  // batches whose callers wait
	idle     chan struct{} // holds one token when inFlight fell to 0 while draining
}

// New makes an engine that serves until Drain. It panics on a Config that does
// not pass Validate: whoever reads configuration has to ask before.
func New(cfg Config, deps Deps) *Engine {
	if err := cfg.Validate(); err != nil {
		panic(fmt.Sprintf("publish: %v", err))
	}
	e := &Engine{
		cfg: cfg.WithDefaults(), clusters: deps.Clusters, control: deps.Control, snapshot: deps.Snapshot,
		log: deps.Log, now: deps.Now, seed: maphash.MakeSeed(), idle: make(chan struct{}, 1),
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if e.now == nil {
		e.now = time.Now
	}
	e.m = newMetrics(deps.Registerer, e.cfg.MaxTopicLabels)
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.targets.e = e
	e.limits.init(e.cfg, e.m)
	e.deadlines.base = e.ctx
	return e
}

// enter counts a batch in, whatever it answers: false once the engine drains.
// It counts first and looks then, so that a Drain in between waits for the batch
// or makes it see the flag.
func (e *Engine) enter() bool {
	e.inFlight.Add(1)
	return !e.draining.Load()
}

// leave counts a batch out.
func (e *Engine) leave() {
	if e.inFlight.Add(-1) == 0 && e.draining.Load() {
		select {
		case e.idle <- struct{}{}:
		default: // a token is there already
		}
	}
}

// Drain refuses new requests with go_away and waits for those in flight. When
// ctx ends first it gives up: what still waits for a retry is answered as not
// sent, what is in flight as maybe sent, and the error says how many there were.
// Calling it again waits again.
func (e *Engine) Drain(ctx context.Context) error {
	e.draining.Store(true)
	var left int64
	for left = e.inFlight.Load(); left > 0; left = e.inFlight.Load() {
		select {
		case <-e.idle:
			continue
		case <-ctx.Done():
		}
		break
	}
	e.spawnMu.Lock()
	e.cancel()
	e.spawnMu.Unlock()
	e.wg.Wait()
	if left > 0 {
		return fmt.Errorf("drain publishes: %d batches were still in flight: %w", left, ctx.Err())
	}
	return nil
}
