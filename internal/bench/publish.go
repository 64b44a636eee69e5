package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
	"uuid"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"

	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// Dialer makes a connection to a node, with credentials in it. Each producer and
// each consumer makes one of its own and closes it.
type Dialer func() (*grpc.ClientConn, error)

// PublishConfig says what to publish.
type PublishConfig struct {
	Dial      Dialer   // through a node
	Direct    []string // or straight to these Kafka brokers
	ServerCPU func() (float64, error)
	Topic     string
	Messages  int64 // of all producers together
	Size      int   // bytes of a body; 0: 1,024
	Batch     int   // messages of a request, up to 1,000; 0: 100
	Producers int   // each with a connection and a stream; 0: 1
	Rate      float64
	Keys      int // so many keys in turn; 0: un-keyed
	InFlight  int // messages that a producer leaves unanswered; 0: 1,000, but at least two batches
	// Progress, if set, is called now and then with the messages answered so far, from any goroutine.
	Progress func(done int64)
}

func (c *PublishConfig) setDefaults() error {
	if c.Size == 0 {
		c.Size = 1024
	}
	if c.Batch == 0 {
		c.Batch = 100
	}
	if c.Producers == 0 {
		c.Producers = 1
	}
	if c.InFlight == 0 {
		c.InFlight = 1000
	}
	c.InFlight = max(c.InFlight, 2*c.Batch)
	switch {
	case c.Topic == "":
		return errors.New("bench: a topic is needed")
	case c.Messages < 1:
		return fmt.Errorf("bench: messages is %d; at least 1 is needed", c.Messages)
	case c.Batch < 1 || c.Batch > 1000:
		return fmt.Errorf("bench: batch is %d; from 1 to 1,000 is allowed", c.Batch)
	case c.Size < 0 || c.Producers < 1 || c.Rate < 0 || c.Keys < 0:
		return errors.New("bench: size, producers, rate and keys must not be negative")
	case (c.Dial == nil) == (len(c.Direct) == 0):
		return errors.New("bench: either a node or brokers to reach directly are needed")
	}
	return nil
}

// load is what all producers of one measurement share.
type load struct {
	cfg   PublishConfig
	left  atomic.Int64
	done  atomic.Int64
	pace  *rate.Limiter // nil: as fast as it goes
	body  []byte
	keys  [][]byte
	runID string
}

// Publish publishes and measures from the first request to the last answer. A
// latency is a request's, from when its turn came (with a rate: even if it could
// not be sent then) to its answer, counted once for each of its messages. Messages
// that were not stored are Errors; what ends a producer is an error, with the
// result up to there.
func Publish(ctx context.Context, cfg PublishConfig) (Result, error) {
	if err := cfg.setDefaults(); err != nil {
		return Result{}, err
	}
	l := newLoad(cfg)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	workers := make([]*worker, cfg.Producers)
	producers := make([]func() error, cfg.Producers)
	for i := range workers {
		workers[i] = &worker{}
		run, closeIt, err := l.open(ctx, i, workers[i])
		if err != nil {
			return Result{}, err
		}
		defer closeIt()
		producers[i] = run
	}
	m := startMeter(cfg.ServerCPU)
	var all errgroup.Group
	for _, run := range producers {
		all.Go(func() error {
			err := run()
			if err != nil {
				cancel() // the others would go on for nothing
			}
			return err
		})
	}
	err := all.Wait()
	return m.result(workers), err
}

func newLoad(cfg PublishConfig) *load {
	l := &load{cfg: cfg, body: make([]byte, cfg.Size), runID: uuid.NewV7().String()}
	_, _ = rand.Read(l.body) // it never fails
	l.left.Store(cfg.Messages)
	for i := range cfg.Keys {
		l.keys = append(l.keys, fmt.Appendf(nil, "key-%d", i))
	}
	if cfg.Rate > 0 {
		l.pace = rate.NewLimiter(rate.Limit(cfg.Rate), cfg.Batch)
	}
	return l
}

// take gives a producer its next batch: how many messages, and when it was due.
// 0: there are none left.
func (l *load) take(ctx context.Context) (n int, due time.Time, err error) {
	batch := int64(l.cfg.Batch)
	left := l.left.Add(-batch)
	n = int(min(batch, left+batch))
	if n <= 0 {
		return 0, time.Time{}, nil
	}
	now := time.Now()
	if l.pace == nil {
		return n, now, nil
	}
	wait := l.pace.ReserveN(now, n).DelayFrom(now)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return n, now.Add(wait), nil
	case <-ctx.Done():
		return 0, time.Time{}, ctx.Err()
	}
}

// progress counts answered messages.
func (l *load) progress(n int) {
	if done := l.done.Add(int64(n)); l.cfg.Progress != nil {
		l.cfg.Progress(done)
	}
}

// open connects producer i; run publishes until there is nothing left.
func (l *load) open(ctx context.Context, i int, w *worker) (run func() error, closeIt func(), err error) {
	if len(l.cfg.Direct) > 0 {
		return l.openDirect(ctx, w)
	}
	conn, err := l.cfg.Dial()
	if err != nil {
		return nil, nil, fmt.Errorf("connect producer %d: %w", i, err)
	}
	stream, err := sluicev1.NewProducerServiceClient(conn).PublishStream(ctx)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open a publish stream: %w", err), conn.Close())
	}
	p := &producer{
		load: l, w: w, stream: stream, name: fmt.Sprintf("bench-%s-%d", l.runID, i),
		slots: make(chan struct{}, max(1, l.cfg.InFlight/l.cfg.Batch)), out: map[uint64]sent{},
	}
	return func() error { return p.run(ctx) }, func() { _ = conn.Close() }, nil // nothing is lost with the connection now
}

// producer is one publish stream.
type producer struct {
	*load
	w      *worker // the receiver's, until run returns
	stream grpc.BidiStreamingClient[sluicev1.PublishStreamRequest, sluicev1.PublishStreamResponse]
	name   string
	slots  chan struct{} // one token for each request that is out

	mu  sync.Mutex // guards out
	out map[uint64]sent
}

type sent struct {
	due time.Time
	n   int
}

func (p *producer) run(ctx context.Context) error {
	var both errgroup.Group
	sendCtx, stop := context.WithCancel(ctx)
	both.Go(func() error {
		defer stop() // no answers, no use in sending
		return p.receive()
	})
	both.Go(func() error { return p.send(sendCtx) })
	return both.Wait()
}

func (p *producer) send(ctx context.Context) error {
	open := &sluicev1.PublishOpen{Topic: p.cfg.Topic, Producer: p.name}
	if err := p.stream.Send(&sluicev1.PublishStreamRequest{Frame: &sluicev1.PublishStreamRequest_Open{Open: open}}); err != nil {
		return nil // Recv tells why
	}
	var seq uint64
	for request := uint64(1); ; request++ {
		n, due, err := p.take(ctx)
		if err != nil || n == 0 {
			_ = p.stream.CloseSend() // Recv tells if the stream broke
			return err
		}
		select {
		case p.slots <- struct{}{}:
		case <-ctx.Done():
			return nil // receive tells why
		}
		if p.pace == nil {
			due = time.Now()
		}
		p.mu.Lock()
		p.out[request] = sent{due, n}
		p.mu.Unlock()
		frame := &sluicev1.PublishStreamRequest_Publish{Publish: &sluicev1.PublishRequest{Messages: p.batch(n, &seq)}}
		if err := p.stream.Send(&sluicev1.PublishStreamRequest{Request: request, Frame: frame}); err != nil {
			return nil // Recv tells why
		}
	}
}

// batch makes n messages as an SDK does: with an id and a sequence each.
func (p *producer) batch(n int, seq *uint64) []*sluicev1.Message {
	slab, ms := make([]sluicev1.Message, n), make([]*sluicev1.Message, n)
	for i := range ms {
		m := &slab[i]
		m.Id, m.Body, m.Sequence = uuid.NewV7().String(), p.body, *seq+1
		if len(p.keys) > 0 {
			m.Key = p.keys[*seq%uint64(len(p.keys))]
		}
		*seq++
		ms[i] = m
	}
	return ms
}

func (p *producer) receive() error {
	for {
		res, err := p.stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("publish stream: %w", err)
		}
		if res.GetGoAway() != nil {
			continue // answers still come, and the node ends the stream
		}
		p.mu.Lock()
		s, known := p.out[res.GetRequest()]
		delete(p.out, res.GetRequest())
		p.mu.Unlock()
		if !known {
			return fmt.Errorf("publish stream: an answer to request %d, which is not out", res.GetRequest())
		}
		p.count(res, s)
		<-p.slots
		p.progress(s.n)
	}
}

func (p *producer) count(res *sluicev1.PublishStreamResponse, s sent) {
	if e := res.GetError(); e != nil {
		p.w.fail(int64(s.n), "%s: %s", e.GetReason(), e.GetMessage())
		return
	}
	rs := res.GetPublish().GetResults()
	if len(rs) != s.n {
		p.w.fail(int64(s.n), "%d results for %d messages", len(rs), s.n)
		return
	}
	var ok int64
	for _, r := range rs {
		if r.GetStatus() == sluicev1.Status_STATUS_STORED {
			ok++
		} else {
			p.w.fail(1, "%s: %s: %s", r.GetStatus(), r.GetError().GetReason(), r.GetError().GetMessage())
		}
	}
	p.w.messages += ok
	p.w.bytes += ok * int64(p.cfg.Size)
	p.w.hist.add(time.Since(s.due), ok)
}
