package sluice_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sluice-mq/sluice/sdk/go"
	"github.com/sluice-mq/sluice/sdk/go/sluicetest"
)

// receive runs Receive until the test, or stop, ends it.
func receive(t *testing.T, c *sluice.Client, sub sluice.Subscription, h sluice.Handler) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Receive(ctx, sub, h) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("receive: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func accepted(fake *sluicetest.Server, group string) int {
	n := 0
	for _, s := range fake.Settled(group) {
		if s.Action == "accept" {
			n++
		}
	}
	return n
}

func TestReceiveHandsOutEachMessageOnceWithinItsLimits(t *testing.T) {
	t.Parallel()
	fake, c := connect(t, 3)
	fake.Deliver("t", keyed(1000)...)
	var mu sync.Mutex
	seen, running, most := map[string]int{}, 0, 0
	stop := receive(t, c, sluice.Subscription{Group: "g", Topics: []string{"t"}, MaxInFlight: 30, Concurrency: 5}, func(_ context.Context, d *sluice.Delivery) error {
		mu.Lock()
		seen[string(d.Body)]++
		running++
		most = max(most, running)
		mu.Unlock()
		defer func() { mu.Lock(); running--; mu.Unlock() }()
		return nil
	})
	until(t, "all are accepted", func() bool { return accepted(fake, "g") == 1000 })
	stop()
	if len(seen) != 1000 || most > 5 {
		t.Fatalf("%d seen, %d at once", len(seen), most)
	}
	if _, inFlight := fake.InFlight("g"); inFlight > 30 {
		t.Fatalf("%d in flight", inFlight)
	}
}

func TestOneMessageInFlightReachesEveryNode(t *testing.T) {
	t.Parallel()
	fake, c := connect(t, 3)
	fake.Deliver("t", keyed(12)...)
	stop := receive(t, c, sluice.Subscription{Group: "g", Topics: []string{"t"}, MaxInFlight: 1}, func(context.Context, *sluice.Delivery) error { return nil })
	until(t, "all are accepted", func() bool { return accepted(fake, "g") == 12 })
	stop()
	if _, most := fake.InFlight("g"); most != 1 {
		t.Fatalf("%d in flight", most)
	}
}

func TestKeysStayInOrderThroughReleases(t *testing.T) {
	t.Parallel()
	for _, order := range []sluice.Order{sluice.ByKey, sluice.ByPartition} {
		t.Run(fmt.Sprint(int(order)), func(t *testing.T) {
			t.Parallel()
			fake, c := connect(t, 2)
			fake.Deliver("t", keyed(300)...)
			var mu sync.Mutex
			var wrong error
			next, running, failed := map[string]int{}, map[string]bool{}, map[string]bool{}
			stop := receive(t, c, sluice.Subscription{Group: "g", Topics: []string{"t"}, Order: order}, func(_ context.Context, d *sluice.Delivery) error {
				var i int
				_, _ = fmt.Sscan(string(d.Body), &i)
				k := string(d.Key)
				mu.Lock()
				defer mu.Unlock()
				if running[k] || i < next[k] || (next[k] > 0 && i != next[k]) {
					wrong = fmt.Errorf("key %s: %d came where %d was due", k, i, next[k])
				}
				running[k] = true
				defer delete(running, k)
				if i%7 == 0 && !failed[string(d.Body)] {
					failed[string(d.Body)] = true
					next[k] = i
					return errors.New("once more")
				}
				next[k] = i + 5
				return nil
			})
			until(t, "all are accepted", func() bool { return accepted(fake, "g") == 300 })
			stop()
			if wrong != nil {
				t.Fatal(wrong)
			}
		})
	}
}

func TestHandlerResultsSettle(t *testing.T) {
	t.Parallel()
	fake, c := connect(t, 1)
	fake.Deliver("t", sluice.Message{ID: "later"}, sluice.Message{ID: "never"}, sluice.Message{ID: "panic"}, sluice.Message{ID: "own"})
	errs := make(chan error, 10)
	sub := sluice.Subscription{Group: "g", Topics: []string{"t"}, OnError: func(_ *sluice.Delivery, err error) { errs <- err }}
	stop := receive(t, c, sub, func(ctx context.Context, d *sluice.Delivery) error {
		switch {
		case d.ID == "later" && d.Attempt == 1:
			return sluice.ReleaseAfter(time.Minute, errors.New("busy"))
		case d.ID == "never":
			return sluice.Reject(errors.New("bad"))
		case d.ID == "panic" && d.Attempt == 1:
			panic("ouch")
		case d.ID == "own":
			return d.Accept(ctx)
		}
		return nil
	})
	until(t, "the first round is settled", func() bool { return len(fake.Settled("g")) == 5 })
	fake.Advance(time.Minute)
	until(t, "the released one came again", func() bool { return len(fake.Settled("g")) == 6 })
	stop()
	got := map[string]string{}
	for _, s := range fake.Settled("g") {
		got[s.ID] += fmt.Sprintf("%s %v %s; ", s.Action, s.Delay, s.Cause)
	}
	want := map[string]string{
		"later": "release 1m0s busy; accept 0s ; ", "never": "reject 0s bad; ",
		"panic": "release 0s handler panicked: ouch; accept 0s ; ", "own": "accept 0s ; ",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
	var p *sluice.PanicError
	for found := false; !found; {
		select {
		case err := <-errs:
			found = errors.As(err, &p) && p.Value == "ouch" && len(p.Stack) > 0
		default:
			t.Fatal("the panic was not reported")
		}
	}
}

func TestReceiverSettlesExplicitly(t *testing.T) {
	t.Parallel()
	fake, c := connect(t, 1)
	fake.Deliver("t", sluice.Message{ID: "a", Headers: sluice.Headers{"h": "v"}}, sluice.Message{ID: "b"}, sluice.Message{ID: "c"})
	r, err := c.Receiver(t.Context(), sluice.Subscription{Group: "g", Topics: []string{"t"}})
	if err != nil {
		t.Fatal(err)
	}
	var ds []*sluice.Delivery
	for len(ds) < 3 {
		more, err := r.Next(t.Context(), 2, time.Minute)
		if err != nil || len(more) > 2 {
			t.Fatal(len(more), err)
		}
		ds = append(ds, more...)
	}
	if v, _ := ds[0].Header("h"); string(v) != "v" {
		t.Fatalf("headers %v", ds[0].Headers)
	}
	if err := ds[0].Renew(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := ds[0].Accept(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := ds[0].Release(t.Context(), 0); !errors.Is(err, sluice.ReasonAlreadySettled) {
		t.Fatalf("second settle: %v", err)
	}
	fake.ExpireLeases()
	until(t, "the expired ones came again", func() bool { n, _ := fake.InFlight("g"); return n == 2 })
	if err := ds[1].Accept(t.Context()); !errors.Is(err, sluice.ReasonReassigned) {
		t.Fatalf("settle after expiry: %v", err)
	}
	if ds, err := r.Next(t.Context(), 10, time.Minute); err != nil || ds[0].Attempt != 2 {
		t.Fatal(ds, err)
	}
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, _ := fake.InFlight("g"); n != 0 {
		t.Fatalf("%d are leased after Close", n)
	}
	if _, err := r.Next(t.Context(), 1, time.Minute); !errors.Is(err, sluice.ReasonCancelled) {
		t.Fatalf("next after close: %v", err)
	}
}

func TestSettlingGoesOnAtAnotherNodeWhenTheStreamIsLost(t *testing.T) {
	t.Parallel()
	fake, c := connect(t, 2)
	fake.Deliver("t", sluice.Message{ID: "a"})
	r, err := c.Receiver(t.Context(), sluice.Subscription{Group: "g", Topics: []string{"t"}})
	if err != nil {
		t.Fatal(err)
	}
	ds, err := r.Next(t.Context(), 1, time.Minute)
	if err != nil || len(ds) != 1 {
		t.Fatal(ds, err)
	}
	fake.StopNode(0)
	if err := ds[0].Accept(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestConsumingGoesOnThroughStopsAndGoAways(t *testing.T) {
	t.Parallel()
	fake, c := connect(t, 3)
	var mu sync.Mutex
	seen := map[string]bool{}
	stop := receive(t, c, sluice.Subscription{Group: "g", Topics: []string{"t"}, MaxInFlight: 20}, func(_ context.Context, d *sluice.Delivery) error {
		mu.Lock()
		defer mu.Unlock()
		seen[string(d.Body)] = true
		return nil
	})
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(seen) }
	msgs := keyed(800)
	step := func(i int, fault func()) {
		fake.Deliver("t", msgs[i:i+200]...)
		until(t, "some have come", func() bool { return count() > i })
		fault()
		until(t, "all so far have come", func() bool { fake.ExpireLeases(); return count() == i+200 })
	}
	step(0, func() { fake.GoAway(0) })
	step(200, func() { fake.StopNode(1) })
	step(400, func() { fake.StopNode(0); fake.StartNode(0) })
	step(600, func() { fake.Disconnect(2) })
	stop()
}

func TestLeasesAreRenewedWhileAHandlerWorks(t *testing.T) {
	t.Parallel()
	fake, c := connect(t, 1)
	fake.Deliver("t", sluice.Message{ID: "slow"})
	release := make(chan struct{})
	stop := receive(t, c, sluice.Subscription{Group: "g", Topics: []string{"t"}, Lease: time.Second}, func(context.Context, *sluice.Delivery) error {
		<-release
		return nil
	})
	until(t, "two renewals came", func() bool { return len(fake.Settled("g")) >= 2 })
	close(release)
	until(t, "it is accepted", func() bool { return accepted(fake, "g") == 1 })
	stop()
	for _, s := range fake.Settled("g")[:2] {
		if s.Action != "renew" {
			t.Fatalf("settled %+v", s)
		}
	}
}

func TestDrainLetsHandlersEnd(t *testing.T) {
	t.Parallel()
	fake, c := connect(t, 1)
	fake.Deliver("t", sluice.Message{ID: "a"})
	started, release := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- c.Receive(ctx, sluice.Subscription{Group: "g", Topics: []string{"t"}}, func(ctx context.Context, _ *sluice.Delivery) error {
			close(started)
			<-release
			return ctx.Err()
		})
	}()
	<-started
	cancel()
	close(release)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if accepted(fake, "g") != 1 {
		t.Fatalf("settled %v", fake.Settled("g"))
	}
}

func TestReleaseNowGivesEverythingBack(t *testing.T) {
	t.Parallel()
	fake, c := connect(t, 1)
	fake.Deliver("t", keyed(10)...)
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan struct{}, 10)
	ended := make(chan error, 1)
	go func() {
		ended <- c.Receive(ctx, sluice.Subscription{Group: "g", Topics: []string{"t"}, Drain: -1, Concurrency: 1}, func(ctx context.Context, _ *sluice.Delivery) error {
			started <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		})
	}()
	<-started
	until(t, "all are here", func() bool { n, _ := fake.InFlight("g"); return n == 10 })
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if n, _ := fake.InFlight("g"); n != 0 || accepted(fake, "g") != 0 {
		t.Fatalf("%d leased, settled %v", n, fake.Settled("g"))
	}
}

func TestConflictingSubscriptionIsRefused(t *testing.T) {
	t.Parallel()
	_, c := connect(t, 1)
	r, err := c.Receiver(t.Context(), sluice.Subscription{Group: "g", Topics: []string{"t"}, Order: sluice.ByKey})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close(context.Background()) }()
	if _, err := c.Receiver(t.Context(), sluice.Subscription{Group: "g", Topics: []string{"t"}, Order: sluice.None}); !errors.Is(err, sluice.ReasonSubscriptionConflict) {
		t.Fatalf("error %v", err)
	}
	if err := c.Receive(t.Context(), sluice.Subscription{Group: "g", Topics: []string{"t"}, Order: sluice.None}, nil); !errors.Is(err, sluice.ReasonSubscriptionConflict) {
		t.Fatalf("error %v", err)
	}
}
