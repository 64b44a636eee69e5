package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// LatencyConfig says how to measure the time from publisher to consumer.
type LatencyConfig struct {
	Dial      Dialer   // through a node
	Direct    []string // or straight through these Kafka brokers
	ServerCPU func() (float64, error)
	Topic     string
	Rate      float64       // messages a second, one a request; 0: 1,000
	Duration  time.Duration // 0: 10 s
	Size      int           // bytes of a body, at least 16; 0: 1,024
	// Idle bounds the wait for the first delivery and for the last ones; 0: 30 s.
	Idle time.Duration
}

func (c *LatencyConfig) setDefaults() error {
	if c.Rate == 0 {
		c.Rate = 1000
	}
	if c.Duration == 0 {
		c.Duration = 10 * time.Second
	}
	if c.Size == 0 {
		c.Size = 1024
	}
	if c.Idle == 0 {
		c.Idle = 30 * time.Second
	}
	switch {
	case c.Topic == "":
		return errors.New("bench: a topic is needed")
	case c.Rate < 0 || c.Duration < 0 || c.Size < stampBytes:
		return fmt.Errorf("bench: rate and duration must not be negative, and a body has at least %d bytes", stampBytes)
	case (c.Dial == nil) == (len(c.Direct) == 0):
		return errors.New("bench: either a node or brokers to reach directly are needed")
	}
	return nil
}

// A body begins with the run's own number and the message's.
const stampBytes = 16

// link is a way from publisher to consumer.
type link interface {
	// publish sends a body and returns at once; done is called with what became of it.
	publish(body []byte, done func(error)) error
	// consume calls got for every body until ctx ends, and returns nil then.
	consume(ctx context.Context, got func(body []byte)) error
	close()
}

// probe follows the messages of one latency measurement.
type probe struct {
	cfg   LatencyConfig
	run   uint64
	ready chan struct{} // closed by the first delivery
	once  sync.Once

	mu      sync.Mutex // guards what follows
	due     map[uint64]time.Time
	w       worker
	acks    histogram
	drained chan struct{} // closed once all came, after the last was sent
	last    bool
}

// Latency publishes at a steady rate, one message a request, and measures how
// long each takes to a consumer that was there before, counted from when it was
// due. Messages that did not arrive are Errors. A group of its own, which begins
// at the end of the topic, reads through a node; it is not deleted afterwards.
func Latency(ctx context.Context, cfg LatencyConfig) (Result, error) {
	if err := cfg.setDefaults(); err != nil {
		return Result{}, err
	}
	p := &probe{cfg: cfg, run: rand.Uint64(), ready: make(chan struct{}), drained: make(chan struct{}), due: map[uint64]time.Time{}}
	var l link
	var err error
	if len(cfg.Direct) > 0 {
		l, err = newDirectLink(ctx, cfg)
	} else {
		l, err = newNodeLink(ctx, cfg, p.run)
	}
	if err != nil {
		return Result{}, err
	}
	defer l.close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	all, ctx2 := errgroup.WithContext(ctx)
	all.Go(func() error { return l.consume(ctx2, p.got) })
	var res Result
	all.Go(func() error {
		defer cancel()
		m, err := p.drive(ctx2, l)
		if m != nil {
			res = p.result(m)
		}
		return err
	})
	err = all.Wait()
	return res, err
}

// drive warms up until something arrives, then publishes for the time asked for.
func (p *probe) drive(ctx context.Context, l link) (*meter, error) {
	if err := p.warmUp(ctx, l); err != nil {
		return nil, err
	}
	m := startMeter(p.cfg.ServerCPU)
	every := time.Duration(float64(time.Second) / p.cfg.Rate)
	due, end := m.start, m.start.Add(p.cfg.Duration)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for seq := uint64(1); due.Before(end); seq++ {
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				return m, context.Cause(ctx)
			}
		}
		if err := p.send(l, seq, due); err != nil {
			return m, err
		}
		due = due.Add(every)
	}
	p.mu.Lock()
	p.last = true
	p.drainedYet()
	p.mu.Unlock()
	timer.Reset(min(p.cfg.Idle, 5*time.Second))
	select {
	case <-p.drained:
	case <-timer.C: // what is missing is counted as errors
	case <-ctx.Done():
		return m, context.Cause(ctx)
	}
	return m, nil
}

// warmUp publishes messages that are not measured until the consumer gets one.
func (p *probe) warmUp(ctx context.Context, l link) error {
	tick, limit := time.NewTicker(50*time.Millisecond), time.NewTimer(p.cfg.Idle)
	defer tick.Stop()
	defer limit.Stop()
	for {
		if err := l.publish(p.body(0), func(error) {}); err != nil {
			return err
		}
		select {
		case <-p.ready:
			return nil
		case <-tick.C:
		case <-limit.C:
			return errIdle
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (p *probe) body(seq uint64) []byte {
	b := make([]byte, p.cfg.Size)
	binary.LittleEndian.PutUint64(b, p.run)
	binary.LittleEndian.PutUint64(b[8:], seq)
	return b
}

func (p *probe) send(l link, seq uint64, due time.Time) error {
	p.mu.Lock()
	p.due[seq] = due
	p.mu.Unlock()
	return l.publish(p.body(seq), func(err error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if err != nil {
			delete(p.due, seq)
			p.w.fail(1, "%v", err)
			p.drainedYet()
			return
		}
		p.acks.add(time.Since(due), 1)
	})
}

// got takes a delivered body; those of others are not ours to count.
func (p *probe) got(body []byte) {
	if len(body) < stampBytes || binary.LittleEndian.Uint64(body) != p.run {
		return
	}
	p.once.Do(func() { close(p.ready) })
	seq := binary.LittleEndian.Uint64(body[8:])
	p.mu.Lock()
	defer p.mu.Unlock()
	due, out := p.due[seq]
	if !out {
		return // of the warm-up, or a repeat
	}
	delete(p.due, seq)
	p.w.messages++
	p.w.bytes += int64(len(body))
	p.w.hist.add(time.Since(due), 1)
	p.drainedYet()
}

// drainedYet tells drive when all came. Called with mu held.
func (p *probe) drainedYet() {
	if p.last && len(p.due) == 0 {
		p.last = false
		close(p.drained)
	}
}

func (p *probe) result(m *meter) Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := int64(len(p.due)); n > 0 {
		p.w.fail(n, "%d messages did not arrive in time", n)
	}
	r := m.result([]*worker{&p.w})
	r.PublishP50, r.PublishP99 = p.acks.millis(0.5), p.acks.millis(0.99)
	return r
}
