package fault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	sluice "github.com/sluice-mq/sluice/sdk/go"
)

// sent is a message that was handed to a publisher, and how that ended.
type sent struct {
	id, key   string
	n         int // its place among those of its key
	deadline  time.Time
	answered  time.Time
	status    sluice.Status
	partition string
	offset    int64
	err       error
}

// delivered is a message that a handler was given, and how its answer ended.
type delivered struct {
	id, key   string
	n         int
	place     string // partition@offset
	partition string
	attempt   int
	at        time.Time
	settled   time.Time // when the answer came; zero: none yet
	err       error     // of the answer
}

// load is keyed messages under way, and all that became of them.
type load struct {
	t     *testing.T
	topic string

	mu  sync.Mutex // guards what follows
	out []*sent
	in  []*delivered
	by  map[*sluice.Delivery]*delivered
	// left are the nodes that streams were moved away from, with the time and why.
	left []string

	stopPublish, stopConsume context.CancelFunc
	publishing, consuming    sync.WaitGroup
}

func newLoad(t *testing.T, topic string) *load {
	return &load{t: t, topic: topic, by: map[*sluice.Delivery]*delivered{}}
}

// connect makes a client whose settlements the load records. It is closed with the test.
func (l *load) connect(addresses string) *sluice.Client {
	l.t.Helper()
	c, err := sluice.Connect(within(l.t, 20*time.Second), addresses, sluice.RefreshNodes(time.Second),
		sluice.WithHooks(sluice.Hooks{OnSettle: l.settled, OnReconnect: l.reconnected}))
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = c.Close(ctx) // a node may be gone by now
	})
	return c
}

// publish starts producers, a client each, that send messages of keys of their own at a steady rate, until stopped.
func (l *load) publish(addresses string, producers, keys, rate int, timeout time.Duration) {
	l.t.Helper()
	ctx, cancel := context.WithCancel(l.t.Context())
	l.stopPublish = cancel
	for i := range producers {
		c := l.connect(addresses)
		l.publishing.Go(func() { l.produce(ctx, c.Publisher(l.topic, sluice.Timeout(timeout)), i, keys, rate, timeout) })
	}
}

func (l *load) produce(ctx context.Context, p *sluice.Publisher, producer, keys, rate int, timeout time.Duration) {
	const ticks = 50 // a second
	tick := time.NewTicker(time.Second / ticks)
	defer tick.Stop()
	for n := 0; ctx.Err() == nil; {
		for range rate / ticks {
			l.send(p, producer, keys, n, timeout)
			n++
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	end, cancel := context.WithTimeout(context.Background(), 70*time.Second)
	defer cancel()
	if err := p.Close(end); err != nil {
		l.t.Errorf("close publisher %d: %v", producer, err)
	}
}

func (l *load) send(p *sluice.Publisher, producer, keys, n int, timeout time.Duration) {
	s := &sent{
		id: fmt.Sprintf("%s/%d/%d", l.topic, producer, n), key: fmt.Sprintf("%d-%d", producer, n%keys), n: n / keys,
		deadline: time.Now().Add(timeout),
	}
	l.mu.Lock()
	l.out = append(l.out, s)
	l.mu.Unlock()
	m := sluice.Message{ID: s.id, Key: []byte(s.key), Body: []byte(strconv.Itoa(s.n))}
	p.PublishAsync(context.Background(), m, func(r sluice.Result) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if s.status != 0 {
			l.t.Errorf("message %s got a second result: %v after %v", s.id, r.Status, s.status)
		}
		s.answered, s.status, s.partition, s.offset, s.err = time.Now(), r.Status, r.Partition, r.Offset, r.Err
	})
}

// finish ends the publishing; every message has its result then.
func (l *load) finish() {
	l.stopPublish()
	l.publishing.Wait()
}

// consume starts a handler that works for a moment on each message, by key, until stopped.
func (l *load) consume(addresses, group string, work time.Duration) {
	l.t.Helper()
	ctx, cancel := context.WithCancel(l.t.Context())
	l.stopConsume = cancel
	c := l.connect(addresses)
	sub := sluice.Subscription{Group: group, Topics: []string{l.topic}, Order: sluice.ByKey, Concurrency: 32, Lease: 15 * time.Second, Drain: 10 * time.Second}
	l.consuming.Go(func() {
		if err := c.Receive(ctx, sub, func(ctx context.Context, d *sluice.Delivery) error {
			l.arrived(d)
			if work > 0 && !pause(ctx, work) {
				return ctx.Err()
			}
			return nil
		}); err != nil {
			l.t.Errorf("consuming ended: %v", err)
		}
	})
}

func (l *load) arrived(d *sluice.Delivery) {
	n, err := strconv.Atoi(string(d.Body))
	if err != nil {
		l.t.Errorf("message %s has a body that nobody sent: %v", d.ID, err)
	}
	v := &delivered{id: d.ID, key: string(d.Key), n: n, place: place(d.Partition, d.Offset), partition: d.Partition, attempt: d.Attempt, at: time.Now()}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.in = append(l.in, v)
	l.by[d] = v
}

func (l *load) settled(e sluice.SettleEvent) {
	if e.Action != "accept" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if v := l.by[e.Delivery]; v != nil {
		v.settled, v.err = time.Now(), e.Err
		delete(l.by, e.Delivery)
	}
}

func (l *load) reconnected(e sluice.ReconnectEvent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left = append(l.left, fmt.Sprintf("%s %s%s left %s: %v", time.Now().UTC().Format("15:04:05.000"), e.Topic, e.Group, e.Node, e.Err))
}

// quit ends the consuming.
func (l *load) quit() {
	l.stopConsume()
	l.consuming.Wait()
}

func place(partition string, offset int64) string {
	return partition + "@" + strconv.FormatInt(offset, 10)
}

// acceptedIDs are those whose accept was recorded.
func (l *load) acceptedIDs() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]bool{}
	for _, v := range l.in {
		if !v.settled.IsZero() && v.err == nil {
			out[v.id] = true
		}
	}
	return out
}

func (l *load) stored() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, s := range l.out {
		if s.status == sluice.StatusStored {
			n++
		}
	}
	return n
}

func (l *load) accepted() int { return len(l.acceptedIDs()) }

// warm waits until messages flow from end to end.
func (l *load) warm(least int) {
	l.t.Helper()
	eventually(l.t, time.Minute, "messages flow", func() bool { return l.accepted() >= least })
}

// drain waits until everything that a native reader finds was delivered and accepted, and committed.
func (l *load) drain(b *brokers, group string) scanned {
	l.t.Helper()
	found := scan(l.t, b, l.topic)
	var missing []string
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		accepted := l.acceptedIDs()
		missing = slices.DeleteFunc(slices.Collect(maps.Keys(found.places)), func(id string) bool { return accepted[id] })
		if len(missing) == 0 {
			awaitCommitted(l.t, b, group, l.topic)
			return found
		}
		pause(l.t.Context(), 200*time.Millisecond)
	}
	slices.Sort(missing)
	l.t.Errorf("%d of %d stored messages were never accepted (A5), first: %v", len(missing), len(found.places), missing[:min(5, len(missing))])
	return found
}

// outage is the longest time without a stored message, all partitions together and the worst one.
func (l *load) outage() (all, partition time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	times := map[string][]time.Time{}
	for _, s := range l.out {
		if s.status == sluice.StatusStored {
			times[""] = append(times[""], s.answered)
			times[s.partition] = append(times[s.partition], s.answered)
		}
	}
	for p, ts := range times {
		slices.SortFunc(ts, time.Time.Compare)
		for i := 1; i < len(ts); i++ {
			gap := ts[i].Sub(ts[i-1])
			if p == "" {
				all = max(all, gap)
			} else {
				partition = max(partition, gap)
			}
		}
	}
	return all, partition
}

// summary counts results by status and failures by text, without the parts that differ from message to message.
func (l *load) summary() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	status, reasons := map[string]int{}, map[string]int{}
	said := map[sluice.Reason]bool{}
	for _, s := range l.out {
		status[s.status.String()]++
		if e := (*sluice.Error)(nil); errors.As(s.err, &e) {
			reasons[s.status.String()+" "+string(e.Reason)]++
			if !said[e.Reason] {
				said[e.Reason] = true
				l.t.Logf("the first with %s, of %s in partition %q: %v", e.Reason, s.id, s.partition, e)
			}
		}
	}
	var b strings.Builder
	for _, e := range l.left[:min(8, len(l.left))] {
		fmt.Fprintln(&b, e)
	}
	fmt.Fprintf(&b, "%d streams moved; %d sent:", len(l.left), len(l.out))
	for _, m := range []map[string]int{status, reasons} {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			fmt.Fprintf(&b, " %s %d;", k, m[k])
		}
	}
	return b.String()
}
