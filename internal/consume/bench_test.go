package consume

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

// endless is a group of one partition with no end of messages of 1 KiB, at no cost.
type endless struct {
	mq.Driver
	records []mq.Record
	given   atomic.Bool
}

func (d *endless) Group(context.Context, mq.GroupConfig) (mq.Group, error) {
	return &endlessGroup{d}, nil
}

type endlessGroup struct{ d *endless }

func (g *endlessGroup) Next(ctx context.Context) (mq.Assignment, error) {
	if !g.d.given.Swap(true) {
		return mq.Assignment{Epoch: 1, Owned: []mq.PartitionID{part(0)}, Added: []mq.PartitionID{part(0)}}, nil
	}
	<-ctx.Done()
	return mq.Assignment{}, mq.Errorf(mq.Timeout, "ended")
}

func (g *endlessGroup) Done(int64) {}

func (g *endlessGroup) Fetch(_ context.Context, _ mq.PartitionID, offset int64, l mq.Limits) (mq.Batch, error) {
	n := min(l.MaxRecords, l.MaxBytes/1200, 1000)
	rs := make([]mq.Record, n)
	headers := make([]mq.Header, n)
	for i := range rs {
		src := &g.d.records[int(offset+int64(i))%len(g.d.records)]
		headers[i] = src.Headers[0]
		rs[i] = mq.Record{Key: src.Key, Body: src.Body, Headers: headers[i : i+1 : i+1], Offset: offset + int64(i)}
	}
	return mq.Batch{Records: rs, Next: offset + int64(n), HighWatermark: 1 << 40}, nil
}

func (g *endlessGroup) Committed(_ context.Context, ps []mq.PartitionID) (map[mq.PartitionID]mq.Commit, error) {
	return map[mq.PartitionID]mq.Commit{ps[0]: {}}, nil
}

func (g *endlessGroup) Commit(context.Context, int64, map[mq.PartitionID]mq.Commit) map[mq.PartitionID]error {
	return nil
}
func (g *endlessGroup) Close(context.Context) error { return nil }

type benchWorld struct {
	*world
	d *endless
}

func (b benchWorld) Driver(string) (mq.Driver, error) { return b.d, nil }

// BenchmarkEngine is a message's way from Fetch to its accept, pulls of 100.
func BenchmarkEngine(b *testing.B) {
	for name, order := range map[string]snapshot.Order{"none": snapshot.OrderNone, "key": snapshot.OrderKey} {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b, 1)
			w.group(snapshot.Settings{Order: order})
			d := &endless{Driver: w.fake, records: make([]mq.Record, 1000)}
			for i := range d.records {
				d.records[i] = mq.Record{Key: fmt.Appendf(nil, "key-%d", i), Body: make([]byte, 1024), Headers: []mq.Header{
					{Name: mq.HeaderID, Value: []byte("0198c0de-0000-7000-8000-000000000000")},
				}}
			}
			e := New(Config{}, Deps{Clusters: benchWorld{w, d}, Control: w, Remote: w, Snapshot: w, Node: "n1"})
			defer w.close()
			defer func() { _ = e.Drain(context.Background()) }()
			s := w.open(e, func(sub *Subscription) { sub.MaxInFlight = 1000 })
			ctx := context.Background()
			b.ReportAllocs()
			b.ResetTimer()
			for done := 0; done < b.N; {
				ds, err := s.Next(ctx, 100, time.Second)
				if err != nil {
					b.Fatal(err)
				}
				for i, f := range e.Settle(ctx, app, gname, acksOf(Accept, ds...)) {
					if f != nil {
						b.Fatal(i, f)
					}
				}
				done += len(ds)
			}
			b.StopTimer()
		})
	}
}

// TestKeysRefillPromptly: 10,000 messages of one partition, 20 keys, 100 workers, 0 to 5 ms of work: near the 1.25 s
// that the work of one key takes.
func TestKeysRefillPromptly(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.group(snapshot.Settings{Order: snapshot.OrderKey})
		e := w.node("n1", Config{})
		w.publish(0, 0, 10_000, 20)
		s := w.open(e, func(sub *Subscription) { sub.MaxInFlight = 1000 })
		w.pull(s, 0, time.Second)
		time.Sleep(time.Second)
		start := time.Now()
		var done atomic.Int64
		var runs sync.WaitGroup
		work := func(run []Delivery) {
			for _, d := range run {
				time.Sleep(time.Duration(rand.IntN(5000)) * time.Microsecond)
				if f := e.Settle(context.Background(), app, gname, acksOf(Accept, d)); f[0] != nil {
					t.Error(f[0])
				}
				done.Add(1)
			}
		}
		for done.Load() < 10_000 {
			ds := w.pull(s, 100, 10*time.Millisecond)
			byRun := map[uint64][]Delivery{}
			for _, d := range ds {
				byRun[d.Run] = append(byRun[d.Run], d)
			}
			for _, run := range byRun {
				runs.Go(func() { work(run) })
			}
		}
		runs.Wait()
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("took %v", took)
		}
	})
}
