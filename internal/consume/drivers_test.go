package consume

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/mq/embedded"
	"github.com/sluice-mq/sluice/internal/mq/kafka"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

// onDriver is a world whose cluster is a real driver.
type onDriver struct {
	*world
	d mq.Driver
}

func (w onDriver) Driver(string) (mq.Driver, error) { return w.d, nil }

func TestEngineOnTheEmbeddedStore(t *testing.T) {
	t.Parallel()
	d, err := embedded.Open(t.Context(), embedded.Config{Dir: t.TempDir()}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	twoNodes(t, d, 2000)
}

func TestEngineOnKafka(t *testing.T) {
	t.Parallel()
	addr := os.Getenv("SLUICE_TEST_KAFKA")
	if addr == "" {
		if slices.Contains(strings.Split(os.Getenv("SLUICE_TEST_REQUIRE"), ","), "kafka") {
			t.Fatal("SLUICE_TEST_KAFKA is not set, and SLUICE_TEST_REQUIRE asks for kafka")
		}
		t.Skip("SLUICE_TEST_KAFKA is not set")
	}
	d, err := kafka.Open(kafka.Config{Bootstrap: strings.Split(addr, ",")}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	twoNodes(t, d, 5000)
}

// twoNodes: keyed messages, two nodes of two clients each, one drains in the middle; 1 % is rejected, 1 % released once.
// Everything comes, in order, once; what was rejected is in the dead letters.
func twoNodes(t *testing.T, d mq.Driver, n int) {
	const keys = 40
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	suffix := fmt.Sprintf("%x", randomUint64())
	tp, grp := mq.Topic("consume-"+suffix), "consume-g-"+suffix
	for name, parts := range map[mq.Topic]int{tp: 4, mq.RetryTopic(grp): 4, mq.DeadLetterTopic(grp): 1} {
		if err := d.Admin().CreateTopic(ctx, mq.TopicSpec{Name: name, Partitions: parts}); err != nil {
			t.Fatal(err)
		}
	}
	w := onDriver{newWorld(t, 1), d}
	w.change(func(s *snapshot.Snapshot) {
		s.Topics = map[string]*snapshot.Topic{"logical": {Name: "logical", Homes: []snapshot.Home{{Cluster: cluster, Topic: tp}}}}
		s.Groups[grp] = &snapshot.Group{Name: grp, Subscriptions: map[string]snapshot.Settings{
			"logical": {Order: snapshot.OrderKey, BackoffMin: 20 * time.Millisecond},
		}}
	})
	nodes := map[string]*Engine{}
	for _, name := range []string{"n1", "n2"} {
		nodes[name] = New(Config{}, Deps{Clusters: w, Control: w, Remote: w, Snapshot: w, Node: name})
		w.change(func(s *snapshot.Snapshot) {
			s.Nodes[name] = &snapshot.Node{Name: name, Roles: []string{"consumer"}, Alive: true}
		})
	}
	produce(ctx, t, d, tp, n, keys)

	var mu sync.Mutex // guards the three
	seen, last := map[string]int{}, map[string]int{}
	var wrong []string
	stop, halt := context.WithCancel(ctx)
	var clients sync.WaitGroup
	for _, e := range nodes {
		for range 2 {
			s, err := e.Open(ctx, app, Subscription{Group: grp, Topics: []string{"logical"}})
			if err != nil {
				t.Fatal(err)
			}
			clients.Go(func() {
				defer s.Close(true)
				for stop.Err() == nil {
					ds, err := s.Next(stop, 100, time.Second)
					if err != nil {
						return
					}
					var acks []Ack
					skip := map[uint64]bool{}
					mu.Lock()
					for _, d := range ds {
						var i int
						_, _ = fmt.Sscan(string(d.Record.Body), &i)
						switch {
						case skip[d.Run]:
							continue
						case i%100 == 7 && d.Attempt == 1:
							acks = append(acks, Ack{Receipt: d.Receipt, Action: Release})
							skip[d.Run] = true
							continue
						case i%100 == 9:
							acks = append(acks, Ack{Receipt: d.Receipt, Action: Reject, Cause: "test"})
						default:
							acks = append(acks, Ack{Receipt: d.Receipt, Action: Accept})
						}
						key := string(d.Record.Key)
						if i < last[key] {
							wrong = append(wrong, fmt.Sprintf("key %s: %d after %d", key, i, last[key]))
						}
						last[key] = max(last[key], i)
						seen[string(d.Record.Body)]++
					}
					mu.Unlock()
					for i, f := range e.Settle(ctx, app, grp, acks) {
						if f != nil {
							mu.Lock()
							wrong = append(wrong, fmt.Sprintf("ack %d: %v", i, f))
							mu.Unlock()
						}
					}
				}
			})
		}
	}
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(seen) }
	await(ctx, t, "a third of the messages", func() bool { return count() >= n/3 })
	if err := nodes["n1"].Drain(ctx); err != nil {
		t.Error(err)
	}
	w.change(func(s *snapshot.Snapshot) { delete(s.Nodes, "n1") })
	await(ctx, t, fmt.Sprintf("all messages (group %s)", grp), func() bool { return count() == n })
	await(ctx, t, "all commits", func() bool {
		cs, err := d.Admin().GroupOffsets(ctx, grp)
		if err != nil {
			return false
		}
		total := int64(0)
		for id, c := range cs {
			if id.Topic == tp {
				total += c.Offset
			}
		}
		return total == int64(n)
	})
	halt()
	clients.Wait()
	if err := nodes["n2"].Drain(ctx); err != nil {
		t.Error(err)
	}
	for body, times := range seen {
		if times != 1 {
			t.Errorf("message %s was handled %d times", body, times)
		}
	}
	if len(wrong) > 0 {
		t.Errorf("%d complaints, first: %s", len(wrong), wrong[0])
	}
	dead, err := d.Reader().Offsets(ctx, []mq.PartitionID{{Topic: mq.DeadLetterTopic(grp)}}, mq.Start{At: mq.Latest})
	if end := dead[mq.PartitionID{Topic: mq.DeadLetterTopic(grp)}]; err != nil || end != int64(n/100) {
		t.Errorf("%d dead letters, want %d (%v)", end, n/100, err)
	}
	for _, name := range []mq.Topic{tp, mq.RetryTopic(grp), mq.DeadLetterTopic(grp)} {
		_ = d.Admin().DeleteTopic(ctx, name) // tidiness only
	}
	if err := d.Close(ctx); err != nil {
		t.Error(err)
	}
	_ = w.fake.Close(ctx)
}

func produce(ctx context.Context, t *testing.T, d mq.Driver, tp mq.Topic, n, keys int) {
	t.Helper()
	batches := map[int][]mq.Record{}
	for i := range n {
		k := i % keys
		batches[k%4] = append(batches[k%4], mq.Record{Key: fmt.Appendf(nil, "k%d", k), Body: fmt.Append(nil, i)})
	}
	for p, rs := range batches {
		for chunk := range slices.Chunk(rs, 500) {
			done := make(chan []mq.Result, 1)
			d.Producer().Produce(ctx, mq.PartitionID{Topic: tp, Index: int32(p)}, chunk, func(r []mq.Result) { done <- r })
			for _, r := range <-done {
				if r.Err != nil {
					t.Fatal(r.Err)
				}
			}
		}
	}
}

func await(ctx context.Context, t *testing.T, what string, ok func() bool) {
	t.Helper()
	for !ok() {
		if !pause(ctx, 20*time.Millisecond) {
			t.Fatalf("no sign of %s", what)
		}
	}
}
