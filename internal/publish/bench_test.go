package publish

import (
	"context"
	"fmt"
	"testing"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/mq/mqtest"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

// instant answers at once with as many results as were asked for.
type instant struct{ *mqtest.Fake }

func (d instant) Producer() mq.Producer { return instantProducer{d.Fake.Producer()} }

type instantProducer struct{ mq.Producer }

var stored [MaxMessages]mq.Result

func (instantProducer) Produce(_ context.Context, _ mq.PartitionID, rs []mq.Record, done func([]mq.Result)) {
	done(stored[:len(rs)])
}

func BenchmarkPublish(b *testing.B) {
	for _, keyed := range []bool{false, true} {
		for _, stream := range []bool{false, true} {
			for _, n := range []int{1, 10, 100} {
				b.Run(fmt.Sprintf("keyed=%t/stream=%t/batch=%d", keyed, stream, n), func(b *testing.B) {
					benchmarkPublish(b, n, keyed, stream)
				})
			}
		}
	}
}

func benchmarkPublish(b *testing.B, n int, keyed, stream bool) {
	fake := mqtest.NewFake(mqtest.FakeConfig{})
	fake.AddTopic("orders-v1", 12)
	w := &world{fake: fake, driver: instant{fake}, snap: &snapshot.Snapshot{}}
	w.addTopic(&snapshot.Topic{Name: "orders", Block: 8, Homes: []snapshot.Home{{Cluster: "c", Topic: "orders-v1"}}})
	e := New(Config{}, Deps{Clusters: w, Snapshot: w})
	defer func() { _ = e.Drain(context.Background()) }() // nothing is in flight
	req := &Request{Topic: "orders", Producer: "p", Messages: make([]Message, n)}
	if stream {
		req.Stream = e.NewStream()
	}
	body := make([]byte, 1024)
	for i := range req.Messages {
		m := Message{ID: "01890a5d-ac96-774b-bcce-b302099a8057", Body: body, Sequence: uint64(i + 1)}
		if keyed {
			m.Key = fmt.Appendf(nil, "key-%d", i)
		}
		req.Messages[i] = m
	}
	b.ReportAllocs()
	for b.Loop() {
		e.Publish(b.Context(), auth.Who{App: "a"}, req, func(rs []Result) {
			if rs[0].Status != Stored {
				b.Fatal(rs[0].Err)
			}
		})
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/msg")
}
