package sluice_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mq/sluice/sdk/go"
	"github.com/sluice-mq/sluice/sdk/go/sluicetest"
)

// TestMain fails the package for goroutines that outlive every test.
func TestMain(m *testing.M) {
	before := runtime.NumGoroutine()
	if m.Run() != 0 {
		panic("tests failed")
	}
	var left string
	for range 200 {
		if runtime.NumGoroutine() <= before {
			return
		}
		buf := make([]byte, 1<<20)
		left = string(buf[:runtime.Stack(buf, true)])
		time.Sleep(10 * time.Millisecond) // polls with a deadline
	}
	panic("goroutines are left:\n" + left)
}

func connect(t testing.TB, nodes int, opts ...sluice.Option) (*sluicetest.Server, *sluice.Client) {
	t.Helper()
	fake := sluicetest.New(sluicetest.Config{Nodes: nodes})
	t.Cleanup(fake.Close)
	c, err := fake.Connect(t.Context(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return fake, c
}

// until polls until ok.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) { // polls with a deadline
		if time.Now().After(end) {
			t.Fatalf("waited too long until %s", what)
		}
	}
}

func keyed(n int) []sluice.Message {
	msgs := make([]sluice.Message, n)
	for i := range msgs {
		msgs[i] = sluice.Message{Key: fmt.Appendf(nil, "k%d", i%5), Body: fmt.Appendf(nil, "%d", i)}
	}
	return msgs
}

// checkOrder: the first copies of each key's messages are stored in the order of their numbers, all n of them.
func checkOrder(t *testing.T, stored []sluicetest.Message, n int) {
	t.Helper()
	last, seen := map[string]int{}, map[int]bool{}
	for _, m := range stored {
		var i int
		if _, err := fmt.Sscan(string(m.Body), &i); err != nil {
			t.Fatal(err)
		}
		if seen[i] {
			continue
		}
		seen[i] = true
		if prev, ok := last[string(m.Key)]; ok && prev > i {
			t.Fatalf("key %s: %d first stored after %d", m.Key, i, prev)
		}
		last[string(m.Key)] = i
	}
	if len(seen) != n {
		t.Fatalf("%d of %d messages are stored", len(seen), n)
	}
}

func TestPublishStoresWhatItWasGiven(t *testing.T) {
	t.Parallel()
	fake, c := connect(t, 1)
	p := c.Publisher("orders")
	r, err := p.Publish(t.Context(), sluice.Message{
		Key: []byte{}, Body: []byte("b"), Tag: "paid", Headers: sluice.Headers{"b": "2", "a": "1"},
		HeaderList: []sluice.Header{{Name: "a", Value: []byte{0xff}}}, Partition: "3",
	})
	if err != nil || r.Status != sluice.StatusStored || r.Partition != "3" || r.Cluster != "fake" || r.ID == "" {
		t.Fatalf("result %+v, error %v", r, err)
	}
	m := fake.Published("orders")[0]
	if m.ID != r.ID || m.Key == nil || len(m.Key) != 0 || string(m.Body) != "b" || m.Tag != "paid" || m.Sequence != 1 || m.Producer == "" {
		t.Fatalf("stored %+v", m)
	}
	if got := fmt.Sprint(m.Headers); got != fmt.Sprint([]sluice.Header{{Name: "a", Value: []byte("1")}, {Name: "b", Value: []byte("2")}, {Name: "a", Value: []byte{0xff}}}) {
		t.Fatalf("headers %s", got)
	}
}

func TestPublishBatchKeepsOrderAndJudgesEachMessage(t *testing.T) {
	t.Parallel()
	fake, c := connect(t, 1)
	msgs := keyed(500)
	msgs[7].Tag = "\xff"
	msgs[9].Partition = "99"
	rs := c.Publisher("t").PublishBatch(t.Context(), msgs)
	for i, r := range rs {
		switch {
		case i == 7:
			if !sluice.Refused(r.Err) || !errors.Is(r.Err, sluice.ReasonInvalidArgument) {
				t.Fatalf("bad tag: %+v", r)
			}
		case i == 9:
			if !sluice.Refused(r.Err) || !errors.Is(r.Err, sluice.ReasonPartitionNotFound) {
				t.Fatalf("bad partition: %+v", r)
			}
		case i > 9 && i%5 == 4, i > 7 && i%5 == 2:
			if !sluice.NotSent(r.Err) || !errors.Is(r.Err, sluice.ReasonPrecedingFailed) {
				t.Fatalf("message %d behind the refused one of its key: %+v", i, r)
			}
		default:
			if r.Err != nil {
				t.Fatalf("message %d: %v", i, r.Err)
			}
		}
	}
	if n := len(fake.Published("t")); n != 302 {
		t.Fatalf("%d stored", n)
	}
	// The key goes on afterwards, although the node refuses it on the old stream.
	if _, err := c.Publisher("t").Publish(t.Context(), sluice.Message{Key: []byte("k4")}); err != nil {
		t.Fatal(err)
	}
}

func TestKeyGoesOnAfterRefusal(t *testing.T) {
	t.Parallel()
	fake, c := connect(t, 1)
	p := c.Publisher("t")
	fake.FailNext(1, &sluice.Error{Reason: sluice.ReasonReservedHeader, Status: sluice.StatusRefused})
	if _, err := p.Publish(t.Context(), sluice.Message{Key: []byte("k")}); !sluice.Refused(err) {
		t.Fatalf("error %v", err)
	}
	if _, err := p.Publish(t.Context(), sluice.Message{Key: []byte("k")}); err != nil {
		t.Fatal(err)
	}
}

func TestPassingFailuresAreRetriedInOrder(t *testing.T) {
	t.Parallel()
	for _, reason := range []sluice.Reason{sluice.ReasonUnavailable, sluice.ReasonSlowDown, sluice.ReasonTooFewReplicas} {
		t.Run(string(reason), func(t *testing.T) {
			t.Parallel()
			fake, c := connect(t, 1)
			fake.FailNext(3, &sluice.Error{Reason: reason})
			for i, r := range c.Publisher("t").PublishBatch(t.Context(), keyed(100)) {
				if r.Err != nil {
					t.Fatalf("message %d: %v", i, r.Err)
				}
			}
			checkOrder(t, fake.Published("t"), 100)
			if n := len(fake.Published("t")); n != 100 {
				t.Fatalf("%d stored", n)
			}
		})
	}
}

func TestMaybeSentByTheNodeIsReported(t *testing.T) {
	t.Parallel()
	fake, c := connect(t, 1)
	fake.FailNext(1, &sluice.Error{Reason: sluice.ReasonDeadlineExceeded, Status: sluice.StatusMaybeSent, MaybeSent: true})
	_, err := c.Publisher("t").Publish(t.Context(), sluice.Message{})
	if !sluice.MaybeSent(err) || sluice.NotSent(err) || len(fake.Published("t")) != 0 {
		t.Fatalf("error %v", err)
	}
}

func TestLostAnswersAreSentAgainElsewhereInOrder(t *testing.T) {
	t.Parallel()
	reconnects := make(chan sluice.ReconnectEvent, 100)
	fake, c := connect(t, 2, sluice.WithHooks(sluice.Hooks{OnReconnect: func(e sluice.ReconnectEvent) { reconnects <- e }}))
	p := c.Publisher("t", sluice.MaxBatch(64<<10, 10))
	fake.CutAnswers(2)
	for i, r := range p.PublishBatch(t.Context(), keyed(100)) {
		if r.Err != nil {
			t.Fatalf("message %d: %v", i, r.Err)
		}
	}
	stored := fake.Published("t")
	checkOrder(t, stored, 100)
	if len(stored) == 100 {
		t.Fatal("nothing was repeated: the fault did not happen")
	}
	ids := map[string]uint64{}
	for _, m := range stored {
		if seq, ok := ids[m.ID]; ok && seq != m.Sequence {
			t.Fatalf("id %s was sent with the sequences %d and %d", m.ID, seq, m.Sequence)
		}
		ids[m.ID] = m.Sequence
	}
	if len(ids) != 100 || len(reconnects) == 0 {
		t.Fatalf("%d ids, %d reconnects", len(ids), len(reconnects))
	}
}

func TestPublishGoesOnThroughStopsAndGoAways(t *testing.T) {
	t.Parallel()
	fake, c := connect(t, 3)
	p := c.Publisher("t")
	results := make(chan sluice.Result, 3000)
	msgs := keyed(3000)
	for i, m := range msgs {
		p.PublishAsync(t.Context(), m, func(r sluice.Result) { results <- r })
		switch i {
		case 500:
			fake.GoAway(0)
		case 1000:
			fake.StopNode(1)
		case 1500:
			fake.StopNode(0)
			fake.StartNode(0)
		case 2000:
			fake.StartNode(1)
			fake.Disconnect(2)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, "every callback was called", func() bool { return len(results) == len(msgs) })
	for range msgs {
		if r := <-results; r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	checkOrder(t, fake.Published("t"), len(msgs))
}

func TestDeadlineWithoutNodeIsNotSent(t *testing.T) {
	t.Parallel()
	fake, c := connect(t, 1)
	fake.StopNode(0)
	p := c.Publisher("t", sluice.Timeout(200*time.Millisecond))
	_, err := p.Publish(t.Context(), sluice.Message{})
	if !sluice.NotSent(err) || !errors.Is(err, sluice.ReasonDeadlineExceeded) {
		t.Fatalf("error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = p.Publish(ctx, sluice.Message{}); !sluice.NotSent(err) || !errors.Is(err, sluice.ReasonCancelled) {
		t.Fatalf("cancelled: error %v", err)
	}
}

func TestFullPublisherWaitsAndTells(t *testing.T) {
	t.Parallel()
	fake, c := connect(t, 1)
	fake.StopNode(0)
	p := c.Publisher("t", sluice.MaxBuffered(0, 2), sluice.Timeout(30*time.Second))
	results := make(chan sluice.Result, 2)
	for range 2 {
		p.PublishAsync(t.Context(), sluice.Message{}, func(r sluice.Result) { results <- r })
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.Publish(ctx, sluice.Message{}); !sluice.NotSent(err) || !errors.Is(err, sluice.ReasonSlowDown) {
		t.Fatalf("error %v", err)
	}
	fake.StartNode(0)
	if _, err := p.Publish(t.Context(), sluice.Message{}); err != nil {
		t.Fatal(err)
	}
}

func TestConnectFailsFastAndNamesWhy(t *testing.T) {
	t.Parallel()
	fake := sluicetest.New(sluicetest.Config{})
	defer fake.Close()
	fake.StopNode(0)
	begin := time.Now()
	_, err := fake.Connect(t.Context())
	if !errors.Is(err, sluice.ReasonUnavailable) || !strings.Contains(err.Error(), "node-0.test") || time.Since(begin) > 5*time.Second {
		t.Fatalf("error %v after %v", err, time.Since(begin))
	}
	if _, err := sluice.Connect(t.Context(), " , "); !errors.Is(err, sluice.ReasonInvalidArgument) {
		t.Fatalf("error %v", err)
	}
}

func TestClosedPublisherRefuses(t *testing.T) {
	t.Parallel()
	_, c := connect(t, 1)
	p := c.Publisher("t")
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Publish(t.Context(), sluice.Message{}); !sluice.NotSent(err) || !errors.Is(err, sluice.ReasonCancelled) {
		t.Fatalf("error %v", err)
	}
}
