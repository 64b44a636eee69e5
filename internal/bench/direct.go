package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// directProducer is a franz-go client as an application that cares for its data
// would set it up: acks=all, idempotent, no linger, no compression (as the
// node's own driver).
func directProducer(brokers []string, topic string) (*kgo.Client, error) {
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(brokers...), kgo.DefaultProduceTopic(topic), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerLinger(0), kgo.ProducerBatchCompression(kgo.NoCompression()),
	)
	if err != nil {
		return nil, fmt.Errorf("set up a direct producer: %w", err)
	}
	return cl, nil
}

func (l *load) openDirect(ctx context.Context, w *worker) (func() error, func(), error) {
	cl, err := directProducer(l.cfg.Direct, l.cfg.Topic)
	if err != nil {
		return nil, nil, err
	}
	if err := cl.Ping(ctx); err != nil {
		cl.Close()
		return nil, nil, fmt.Errorf("reach the brokers: %w", err)
	}
	return func() error { return l.runDirect(ctx, cl, w) }, cl.Close, nil
}

func (l *load) runDirect(ctx context.Context, cl *kgo.Client, w *worker) error {
	var mu sync.Mutex // guards w: answers come from several goroutines
	slots := make(chan struct{}, l.cfg.InFlight)
	var out sync.WaitGroup
	defer out.Wait()
	for seq := 0; ; {
		n, due, err := l.take(ctx)
		if err != nil || n == 0 {
			return err
		}
		for range n {
			slots <- struct{}{}
			due := due // each record's own: the callback reads it later
			if l.pace == nil {
				due = time.Now()
			}
			r := &kgo.Record{Value: l.body}
			if len(l.keys) > 0 {
				r.Key = l.keys[seq%len(l.keys)]
			}
			seq++
			out.Add(1)
			cl.Produce(ctx, r, func(_ *kgo.Record, err error) {
				defer out.Done()
				mu.Lock()
				if err != nil {
					w.fail(1, "%v", err)
				} else {
					w.messages++
					w.bytes += int64(len(l.body))
					w.hist.add(time.Since(due), 1)
				}
				mu.Unlock()
				<-slots
				l.progress(1)
			})
		}
	}
}

// openDirect sets up one member of a Kafka group; it commits what it has polled, as applications mostly do.
func (c *consumption) openDirect(ctx context.Context, w *worker) (func() error, func(), error) {
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(c.cfg.Direct...), kgo.ConsumerGroup(c.cfg.Group), kgo.ConsumeTopics(c.cfg.Topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
	)
	if err != nil {
		return nil, nil, fmt.Errorf("set up a direct consumer: %w", err)
	}
	return func() error {
		for {
			fs := cl.PollRecords(ctx, pull)
			if ctx.Err() != nil {
				return c.ended(ctx)
			}
			var errs []error
			fs.EachError(func(topic string, p int32, err error) {
				errs = append(errs, fmt.Errorf("fetch %s/%d: %w", topic, p, err))
			})
			if err := errors.Join(errs...); err != nil {
				return err
			}
			now := time.Now()
			n := 0
			fs.EachRecord(func(r *kgo.Record) {
				n++
				w.bytes += int64(len(r.Value))
				w.hist.add(now.Sub(r.Timestamp), 1)
			})
			if n > 0 {
				c.began()
				w.messages += int64(n)
				c.got(n)
			}
		}
	}, cl.Close, nil
}
