package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/sluice-mq/sluice/internal/mq"
)

// Driver is one Kafka cluster; see the package comment. It implements mq.Driver.
type Driver struct {
	cfg Config
	log *slog.Logger
	m   *metrics

	// data carries produce and metadata requests with short time-outs, slow everything that a busy
	// broker may take seconds for: admin, offsets, commits. Two clients, so that neither waits behind the other.
	data, slow *kgo.Client

	meta *metadata
	caps capsCache
	prod *producer
	read *reader

	ctx    context.Context // ends at Close
	cancel context.CancelFunc

	mu     sync.Mutex // guards what follows
	groups map[*group]struct{}
	closed bool
}

// Open makes a driver. It connects when it is first used, so the cluster need not be reachable. A nil reg leaves
// the metrics unregistered.
func Open(cfg Config, log *slog.Logger, reg prometheus.Registerer) (mq.Driver, error) {
	if err := cfg.Validate(); err != nil {
		return nil, &mq.Error{Class: mq.Invalid, Msg: "kafka configuration", Cause: err}
	}
	cfg.setDefaults()
	d := &Driver{cfg: cfg, log: log, m: newMetrics(reg), groups: map[*group]struct{}{}}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	var err error
	if d.data, err = d.client(cfg.RequestOverhead); err != nil {
		d.cancel()
		return nil, &mq.Error{Class: mq.Invalid, Msg: "kafka configuration", Cause: err}
	}
	if d.slow, err = d.client(cfg.AdminTimeout); err != nil {
		d.data.Close()
		d.cancel()
		return nil, &mq.Error{Class: mq.Invalid, Msg: "kafka configuration", Cause: err}
	}
	d.meta = newMetadata(d)
	if d.prod, err = newProducer(d); err != nil {
		d.data.Close()
		d.slow.Close()
		d.cancel()
		return nil, &mq.Error{Class: mq.Invalid, Msg: "kafka configuration", Cause: err}
	}
	d.read = newReader(d)
	return d, nil
}

// client makes a kgo client whose requests time out overhead after their own time-out.
func (d *Driver) client(overhead time.Duration, more ...kgo.Opt) (*kgo.Client, error) {
	opts := []kgo.Opt{
		kgo.SeedBrokers(d.cfg.Bootstrap...),
		kgo.ClientID(d.cfg.ClientID),
		kgo.RequestTimeoutOverhead(overhead),
		kgo.RetryTimeout(2 * overhead),
		kgo.RetryBackoffFn(backoff),
		kgo.DialTimeout(d.cfg.DialTimeout),
		kgo.MetadataMinAge(250 * time.Millisecond),
		kgo.MaxDecompressBatchBytes(d.cfg.MaxBatch),
		kgo.DisableClientMetrics(),
		kgo.WithLogger(kgoLog{d.log}),
	}
	switch m := d.cfg.SASL; m.Mechanism {
	case Plain:
		opts = append(opts, kgo.SASL(plain.Auth{User: m.User, Pass: m.Password}.AsMechanism()))
	case ScramSHA256:
		opts = append(opts, kgo.SASL(scramOf(m).AsSha256Mechanism()))
	case ScramSHA512:
		opts = append(opts, kgo.SASL(scramOf(m).AsSha512Mechanism()))
	}
	if dial := d.dialer(); dial != nil {
		opts = append(opts, kgo.Dialer(dial))
	}
	return kgo.NewClient(append(opts, more...)...)
}

func scramOf(s SASL) scram.Auth { return scram.Auth{User: s.User, Pass: s.Password} }

// dialer is nil where kgo's own, TCP with DialTimeout, will do.
func (d *Driver) dialer() func(ctx context.Context, network, addr string) (net.Conn, error) {
	if d.cfg.Dial != nil {
		return d.cfg.Dial
	}
	if d.cfg.TLS == nil && d.cfg.GetTLS == nil {
		return nil
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conf := d.cfg.TLS
		if d.cfg.GetTLS != nil {
			var err error
			if conf, err = d.cfg.GetTLS(); err != nil {
				return nil, fmt.Errorf("TLS configuration: %w", err)
			}
		}
		ctx, cancel := context.WithTimeout(ctx, d.cfg.DialTimeout)
		defer cancel()
		return (&tls.Dialer{Config: conf}).DialContext(ctx, network, addr)
	}
}

// backoff between the tries of one request: 50 ms doubling to 800 ms.
func backoff(tries int) time.Duration {
	return 50 * time.Millisecond << min(max(tries-1, 0), 4)
}

// Kind implements mq.Driver.
func (d *Driver) Kind() mq.Kind { return mq.Kafka }

// Producer implements mq.Driver.
func (d *Driver) Producer() mq.Producer { return d.prod }

// Reader implements mq.Driver.
func (d *Driver) Reader() mq.Reader { return d.read }

// Admin implements mq.Driver.
func (d *Driver) Admin() mq.Admin { return admin{d} }

// Close leaves all groups, waits for the outcome of writes in flight for as long as ctx allows, ends everything and
// waits for it. What is not answered by then is answered as Closed. It may be called more than once.
func (d *Driver) Close(ctx context.Context) error {
	d.mu.Lock()
	first := !d.closed
	d.closed = true
	groups := make([]*group, 0, len(d.groups))
	for g := range d.groups {
		groups = append(groups, g)
	}
	d.mu.Unlock()
	if !first {
		return nil
	}
	var wg sync.WaitGroup
	errs := make([]error, len(groups))
	for i, g := range groups {
		wg.Go(func() { errs[i] = g.Close(ctx) })
	}
	wg.Wait()
	err := errors.Join(append(errs, d.prod.close(ctx))...)
	d.cancel()
	d.data.Close()
	d.slow.Close()
	d.read.close()
	d.prod.wait()
	d.meta.wait()
	return err
}

func (d *Driver) isClosed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed
}

// partitionsChanged lets the groups of these topics look again, so that they balance what was added.
func (d *Driver) partitionsChanged(topics []mq.Topic) {
	if len(topics) == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for g := range d.groups {
		if slices.ContainsFunc(topics, func(t mq.Topic) bool { return slices.Contains(g.cfg.Topics, t) }) {
			g.cl.ForceMetadataRefresh()
		}
	}
}

func errClosed() *mq.Error { return mq.Errorf(mq.Closed, "the driver was closed") }

// bound gives ctx the time-out of one slow request and ends it with the driver.
func (d *Driver) bound(ctx context.Context, t time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, t)
	stop := context.AfterFunc(d.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// kgoLog passes kgo's warnings on; its info lines are one per rebalance and per failed batch, so they are Debug here.
type kgoLog struct{ log *slog.Logger }

func (l kgoLog) Level() kgo.LogLevel {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		return kgo.LogLevelInfo
	}
	return kgo.LogLevelWarn
}

func (l kgoLog) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	at := slog.LevelDebug
	if level <= kgo.LogLevelWarn {
		// The library warns of every lost connection; what matters of it reaches callers as errors.
		at = slog.LevelInfo
	}
	l.log.Log(context.Background(), at, "kafka client", append([]any{"event", msg}, keyvals...)...)
}
