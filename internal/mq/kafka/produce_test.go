package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluice-mq/sluice/internal/mq"
)

func TestLostAnswersMakeNoDuplicates(t *testing.T) {
	t.Parallel()
	c := startFake(t)
	l := &link{}
	d := openClosed(t, Config{Bootstrap: c.ListenAddrs(), Dial: l.dial})
	var want []string
	for i := range 20 {
		if i%4 == 1 {
			l.losing.Store(2)
		}
		body := fmt.Sprint("m", i)
		want = append(want, body)
		rs := produce(t.Context(), t, d, first, texts(body)...)
		if rs[0].Err != nil || rs[0].Offset != int64(i) {
			t.Fatalf("record %d: %+v", i, rs[0])
		}
	}
	if diff := cmp.Diff(want, scan(t, c.ListenAddrs(), first)); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
}

func TestDeadlineInFlightIsMaybeSentAndItsOutcomeIsCounted(t *testing.T) {
	t.Parallel()
	c := startFake(t)
	d := openClosed(t, Config{Bootstrap: c.ListenAddrs()})
	if rs := produce(t.Context(), t, d, first, texts("before")...); rs[0].Err != nil {
		t.Fatal(rs[0].Err)
	}
	release := make(chan struct{})
	arrived := make(chan struct{})
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.SleepControl(func() { close(arrived); <-release })
		return nil, nil, false
	})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	rs := produce(ctx, t, d, first, texts("slow")...)
	<-arrived
	if !errors.Is(rs[0].Err, mq.Timeout) || !mq.MaybeSent(rs[0].Err) {
		t.Errorf("in flight at the deadline: got %v, want a time-out that is maybe sent", rs[0].Err)
	}
	// What waits behind it was never handed over.
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	rs = produce(ctx, t, d, first, texts("behind")...)
	if !errors.Is(rs[0].Err, mq.Timeout) || mq.MaybeSent(rs[0].Err) {
		t.Errorf("queued at the deadline: got %v, want a time-out that is not sent", rs[0].Err)
	}
	close(release)
	eventually(t, "the late outcome is counted", func() bool { return counted(t, d.m.late.WithLabelValues("stored")) == 1 })
	if got, want := scan(t, c.ListenAddrs(), first), []string{"before", "slow"}; !slices.Equal(got, want) {
		t.Errorf("stored %q, want %q", got, want)
	}
	if n := d.prod.bytes.Load(); n != 0 {
		t.Errorf("%d bytes are still counted as queued", n)
	}
}

func TestNothingLeavesAfterItsDeadline(t *testing.T) {
	t.Parallel()
	c := startFake(t)
	l := &link{}
	d := openClosed(t, Config{Bootstrap: c.ListenAddrs(), Dial: l.dial, DialTimeout: 10 * time.Second, LeaderWait: 10 * time.Second})
	if _, err := d.Producer().Partitions(t.Context(), fakeTopic); err != nil {
		t.Fatal(err)
	}
	hold := make(chan struct{})
	l.setHold(hold) // the connection for produce requests is not there yet
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	rs := produce(ctx, t, d, first, texts("expired")...)
	if !errors.Is(rs[0].Err, mq.Timeout) || mq.MaybeSent(rs[0].Err) {
		t.Errorf("got %v, want a time-out that is not sent", rs[0].Err)
	}
	l.setHold(nil)
	close(hold)
	if rs := produce(t.Context(), t, d, first, texts("later")...); rs[0].Err != nil {
		t.Fatal(rs[0].Err)
	}
	if got, want := scan(t, c.ListenAddrs(), first), []string{"later"}; !slices.Equal(got, want) {
		t.Errorf("stored %q, want %q", got, want)
	}
}

func TestAnswersOfBrokersHaveTheirClass(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		code   *kerr.Error
		class  mq.Class
		stored bool
	}{
		{kerr.NotEnoughReplicas, mq.TooFewReplicas, false},
		{kerr.NotEnoughReplicasAfterAppend, mq.NotDurable, true},
		{kerr.TopicAuthorizationFailed, mq.Auth, false},
		{kerr.InvalidRecord, mq.Invalid, false},
	} {
		t.Run(tc.code.Message, func(t *testing.T) {
			t.Parallel()
			c := startFake(t)
			d := openClosed(t, Config{Bootstrap: c.ListenAddrs()})
			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: tc.code})
			rs := produce(t.Context(), t, d, first, texts("a")...)
			if !errors.Is(rs[0].Err, tc.class) || mq.MaybeSent(rs[0].Err) {
				t.Errorf("got %v, want class %q and no maybe-sent", rs[0].Err, tc.class)
			}
			if rs := produce(t.Context(), t, d, first, texts("b")...); rs[0].Err != nil {
				t.Fatalf("the next record: %v", rs[0].Err)
			}
			want := []string{"b"}
			if tc.stored {
				want = []string{"a", "b"}
			}
			if got := scan(t, c.ListenAddrs(), first); !slices.Equal(got, want) {
				t.Errorf("stored %q, want %q", got, want)
			}
		})
	}
}

func TestUnknownOutcomesAreAskedAgain(t *testing.T) {
	t.Parallel()
	for _, code := range []*kerr.Error{kerr.RequestTimedOut, kerr.UnknownServerError, kerr.NotLeaderForPartition, kerr.OutOfOrderSequenceNumber} {
		t.Run(code.Message, func(t *testing.T) {
			t.Parallel()
			c := startFake(t)
			d := openClosed(t, Config{Bootstrap: c.ListenAddrs()})
			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: code, Count: 2})
			rs := produce(t.Context(), t, d, first, texts("a", "b")...)
			for i, r := range rs {
				if r.Err != nil {
					// Asked for the first time with OUT_OF_ORDER the record starts a new epoch; the others are repeated.
					t.Errorf("record %d: %v", i, r.Err)
				}
			}
			if got, want := scan(t, c.ListenAddrs(), first), []string{"a", "b"}; !slices.Equal(got, want) {
				t.Errorf("stored %q, want %q", got, want)
			}
		})
	}
}

func TestNoLeaderFailsAsNotSent(t *testing.T) {
	t.Parallel()
	c := startFake(t)
	d := openClosed(t, Config{Bootstrap: c.ListenAddrs(), LeaderWait: 300 * time.Millisecond})
	c.ControlKey(int16(kmsg.Produce), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		resp := kreq.ResponseKind().(*kmsg.ProduceResponse)
		rt := kmsg.NewProduceResponseTopic()
		rt.Topic = string(fakeTopic)
		rp := kmsg.NewProduceResponseTopicPartition()
		rp.ErrorCode, rp.BaseOffset = kerr.NotLeaderForPartition.Code, -1
		rt.Partitions = append(rt.Partitions, rp)
		resp.Topics = append(resp.Topics, rt)
		return resp, nil, true
	})
	rs := produce(t.Context(), t, d, first, texts("a")...)
	if !errors.Is(rs[0].Err, mq.NotLeader) || mq.MaybeSent(rs[0].Err) {
		t.Errorf("got %v, want not leader, not sent", rs[0].Err)
	}
}

func TestAHungWriteIsGivenUpAndThePartitionGoesOn(t *testing.T) {
	t.Parallel()
	c := startFake(t)
	d := openClosed(t, Config{Bootstrap: c.ListenAddrs(), HangTimeout: time.Second})
	h := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.UnknownServerError, Count: -1})
	rs := produce(t.Context(), t, d, first, texts("hangs")...)
	if !mq.MaybeSent(rs[0].Err) {
		t.Errorf("got %v, want maybe sent", rs[0].Err)
	}
	h.Remove()
	if rs := produce(t.Context(), t, d, first, texts("next")...); rs[0].Err != nil {
		t.Errorf("the next record: %v", rs[0].Err)
	}
	if n := counted(t, d.m.epochBumps); n != 1 {
		t.Errorf("%v epochs were given up, want 1", n)
	}
}

func TestFullQueueAnswersBusy(t *testing.T) {
	t.Parallel()
	c := startFake(t)
	d := openClosed(t, Config{Bootstrap: c.ListenAddrs(), PartitionBytes: 64 << 10})
	if rs := produce(t.Context(), t, d, first, texts("a")...); rs[0].Err != nil {
		t.Fatal(rs[0].Err)
	}
	release := make(chan struct{})
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.SleepControl(func() { <-release })
		return nil, nil, false
	})
	big := mq.Record{Body: []byte(strings.Repeat("x", 20<<10))}
	var answered, busy atomic.Int32
	for range 10 {
		d.Producer().Produce(t.Context(), first, []mq.Record{big}, func(rs []mq.Result) {
			answered.Add(1)
			if errors.Is(rs[0].Err, mq.Busy) {
				busy.Add(1)
			}
		})
	}
	if n := busy.Load(); n == 0 || n == 10 {
		t.Errorf("%d of 10 records found the queue full", n)
	}
	close(release)
	eventually(t, "all are answered", func() bool { return answered.Load() == 10 })
}

func TestConcurrentCallersAreAnsweredOnce(t *testing.T) {
	t.Parallel()
	c := startFake(t)
	l := &link{}
	d := openClosed(t, Config{Bootstrap: c.ListenAddrs(), Dial: l.dial})
	const callers, calls = 16, 40
	var mu sync.Mutex
	results := map[string][]mq.Result{}
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for j := range calls {
				if j%10 == 5 {
					l.losing.Store(1)
				}
				timeout := time.Duration(1+(i*7+j)%40) * time.Millisecond
				if j%2 == 0 {
					timeout = time.Minute
				}
				ctx, cancel := context.WithTimeout(t.Context(), timeout)
				body := fmt.Sprintf("%d-%d", i, j)
				done := make(chan struct{})
				d.Producer().Produce(ctx, mq.PartitionID{Topic: fakeTopic, Index: int32(j % 3)}, texts(body), func(rs []mq.Result) {
					mu.Lock()
					first := results[body] == nil
					results[body] = append(results[body], rs...)
					mu.Unlock()
					if first {
						close(done)
					}
				})
				<-done
				cancel()
			}
		})
	}
	wg.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := d.Close(ctx); err != nil {
		t.Fatal(err)
	}
	times := map[string]int{}
	for i := range 3 {
		for _, body := range scan(t, c.ListenAddrs(), mq.PartitionID{Topic: fakeTopic, Index: int32(i)}) {
			times[body]++
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for body, rs := range results {
		switch {
		case len(rs) != 1:
			t.Errorf("%s was answered %d times", body, len(rs))
		case rs[0].Err == nil && times[body] != 1:
			t.Errorf("%s is ok and stored %d times", body, times[body])
		case rs[0].Err != nil && !mq.MaybeSent(rs[0].Err) && times[body] != 0:
			t.Errorf("%s is %v and stored", body, rs[0].Err)
		case times[body] > 1:
			t.Errorf("%s is stored %d times", body, times[body])
		}
	}
	if n := d.prod.bytes.Load(); n != 0 {
		t.Errorf("%d bytes are still counted as queued", n)
	}
}
