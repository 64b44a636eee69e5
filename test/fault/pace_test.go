package fault

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	sluice "github.com/sluice-mq/sluice/sdk/go"
	"github.com/sluice-mq/sluice/test/harness"
)

// TestOnePartitionsKeysAreWorkedOnInParallel is the figure of a library inside the application: 10,000 messages of one
// partition, 20 keys, 0 to 5 ms of work each, at most 2.2 s.
func TestOnePartitionsKeysAreWorkedOnInParallel(t *testing.T) {
	const count, keys, concurrency = 10_000, 20, 100
	b := kafka(t)
	n := harness.Start(t, "--dev", "--set", "embedded.enabled=false")
	ctx := within(t, 90*time.Second)
	n.Must(ctx, "", "cluster", "add", "k", "--kind", "kafka", "--bootstrap", b.bootstrap)
	name := topic(t, n, "pace", 1)
	c, err := sluice.Connect(ctx, n.GRPC)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(ctx) }()
	p := c.Publisher(name, sluice.Timeout(30*time.Second))
	for i := range count {
		p.PublishAsync(ctx, sluice.Message{Key: []byte("k" + strconv.Itoa(i%keys)), Body: []byte(strconv.Itoa(i / keys))}, func(r sluice.Result) {
			if r.Err != nil {
				t.Errorf("message %d: %v", i, r.Err)
			}
		})
	}
	if err := p.Flush(ctx); err != nil {
		t.Fatal(err)
	}

	var (
		mu          sync.Mutex // guards what follows
		seen        = map[string]int{}
		done        int
		first, last time.Time
		work        time.Duration
	)
	receiving, stop := context.WithCancel(ctx)
	defer stop()
	asked := time.Now()
	err = c.Receive(receiving, sluice.Subscription{Group: name, Topics: []string{name}, Order: sluice.ByKey, Concurrency: concurrency, MaxInFlight: 1000},
		func(ctx context.Context, d *sluice.Delivery) error {
			takes := rand.N(5 * time.Millisecond)
			mu.Lock()
			if first.IsZero() {
				first = time.Now()
			}
			if want := strconv.Itoa(seen[string(d.Key)]); string(d.Body) != want {
				t.Errorf("key %s has %s where %s is due", d.Key, d.Body, want)
			}
			seen[string(d.Key)]++
			work += takes
			mu.Unlock()
			pause(ctx, takes)
			mu.Lock()
			defer mu.Unlock()
			if done++; done == count {
				last = time.Now()
				stop()
			}
			return nil
		})
	if err != nil {
		t.Fatal(err)
	}
	if done != count {
		t.Fatalf("%d of %d messages came", done, count)
	}
	t.Logf("%d messages, %d keys, %v of work in %v from the first delivery (target 2.2 s; %v with joining the group)",
		count, keys, work.Round(time.Millisecond), last.Sub(first).Round(time.Millisecond), last.Sub(asked).Round(time.Millisecond))
	if last.Sub(first) > 5*time.Second {
		t.Errorf("it took %v; 2.2 s is the target, and 5 s too long on any machine", last.Sub(first))
	}
}
