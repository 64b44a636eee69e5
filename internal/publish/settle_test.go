package publish

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/mq/mqtest"
)

func TestEachClassBecomesAStatus(t *testing.T) {
	t.Parallel()
	maybe := func(c mq.Class) error { return &mq.Error{Class: c, MaybeSent: true} }
	for name, c := range map[string]struct {
		err    error
		status Status
		reason fault.Reason
		tries  bool // it is tried again until the deadline
	}{
		"connection":             {mq.Errorf(mq.Conn, "x"), NotSent, fault.Unavailable, true},
		"timeout":                {mq.Errorf(mq.Timeout, "x"), NotSent, fault.DeadlineExceeded, true},
		"busy":                   {mq.Errorf(mq.Busy, "x"), NotSent, fault.SlowDown, true},
		"not leader":             {mq.Errorf(mq.NotLeader, "x"), NotSent, fault.Unavailable, true},
		"too few replicas":       {mq.Errorf(mq.TooFewReplicas, "x"), NotSent, fault.TooFewReplicas, true},
		"fenced":                 {mq.Errorf(mq.Fenced, "x"), NotSent, fault.Unavailable, true},
		"closed":                 {mq.Errorf(mq.Closed, "x"), NotSent, fault.Unavailable, true},
		"not found":              {mq.Errorf(mq.NotFound, "x"), Refused, fault.TopicNotFound, true},
		"authorization":          {mq.Errorf(mq.Auth, "x"), NotSent, fault.ClusterAuth, false},
		"disk full":              {mq.Errorf(mq.DiskFull, "x"), NotSent, fault.DiskFull, false},
		"too large":              {mq.Errorf(mq.TooLarge, "x"), Refused, fault.MessageTooLarge, false},
		"invalid":                {mq.Errorf(mq.Invalid, "x"), Refused, fault.InvalidArgument, false},
		"unsupported":            {mq.Errorf(mq.Unsupported, "x"), Refused, fault.Unsupported, false},
		"fatal":                  {mq.Errorf(mq.Fatal, "x"), NotSent, fault.Internal, false},
		"foreign":                {context.DeadlineExceeded, NotSent, fault.Internal, false},
		"timeout, maybe sent":    {maybe(mq.Timeout), MaybeSent, fault.DeadlineExceeded, false},
		"connection, maybe sent": {maybe(mq.Conn), MaybeSent, fault.Unavailable, false},
		"closed, maybe sent":     {maybe(mq.Closed), MaybeSent, fault.Unavailable, false},
		"fatal, maybe sent":      {maybe(mq.Fatal), MaybeSent, fault.Unavailable, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, w *world) {
				w.fake.OnProduce(func(mqtest.Attempt) mqtest.Outcome { return mqtest.Outcome{Err: c.err} })
				start := time.Now()
				rs := w.publish(Message{Key: []byte("k"), Body: []byte("b")})
				wants(t, rs[0], c.status, c.reason)
				if took, n := time.Since(start), len(w.fake.Attempts()); took > DefaultTimeout || (n > 1) != c.tries {
					t.Errorf("%d attempts in %s", n, took)
				}
			})
		})
	}
}

func TestNotDurableIsStoredAndSaysSo(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		w.fake.OnProduce(func(mqtest.Attempt) mqtest.Outcome {
			return mqtest.Outcome{Each: func(int, mq.Record) error { return mq.Errorf(mq.NotDurable, "x") }}
		})
		wants(t, w.publish(msg("a"))[0], StoredNotReplicated, fault.NotReplicated)
		rs := w.start(&Request{Messages: []Message{msg("b")}, AnyDurability: true}).wait()
		wants(t, rs[0], StoredNotReplicated, "")
	})
}

func TestResultsStandInOrderWithTheirPlaces(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		var msgs []Message
		for i := range 90 {
			m := Message{Body: []byte{byte(i)}, Sequence: uint64(i + 1)}
			if i%3 == 0 {
				m.Key = []byte{byte(i)}
			}
			msgs = append(msgs, m)
		}
		seen := map[string]bool{}
		for i, r := range w.publish(msgs...) {
			wants(t, r, Stored, "")
			var p int32
			switch r.Partition {
			case "1":
				p = 1
			case "2":
				p = 2
			}
			rec := w.fake.Records(part(p))[r.Offset]
			if rec.Body[0] != byte(i) || string(rec.Headers[len(rec.Headers)-1].Value) != r.ID || r.Cluster != "c" {
				t.Errorf("message %d is not where its result says: %+v", i, r)
			}
			if seen[r.ID] || len(r.ID) != 36 {
				t.Errorf("id %q", r.ID)
			}
			seen[r.ID] = true
		}
	})
}

func TestFailedSliceIsRetriedAlone(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		failBodies(w.fake, mq.NotLeader, 3, "b")
		rs := w.publish(keyed(keyOn(0), 0, "a"), keyed(keyOn(1), 0, "b"), keyed(keyOn(2), 0, "c"))
		for i, r := range rs {
			wants(t, r, Stored, "")
			if n := len(w.bodies(int32(i))); n != 1 {
				t.Errorf("partition %d holds %d records", i, n)
			}
		}
		if n := len(w.fake.Attempts()); n != 6 {
			t.Errorf("%d attempts, want one for each neighbour and four for the failed slice", n)
		}
	})
}

func TestMaybeSentIsNotProducedAgain(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		w.fake.OnProduce(func(mqtest.Attempt) mqtest.Outcome { return mqtest.LoseReply() })
		wants(t, w.publish(msg("a"))[0], MaybeSent, fault.DeadlineExceeded)
		if n := len(w.fake.Attempts()); n != 1 {
			t.Errorf("%d attempts", n)
		}
	})
}

func TestUnkeyedMovesOnlyWhenCertainlyNotSent(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		var first atomic.Int32
		first.Store(-1)
		w.fake.OnProduce(func(a mqtest.Attempt) mqtest.Outcome {
			first.CompareAndSwap(-1, a.Partition.Index)
			if a.Partition.Index == first.Load() {
				return mqtest.Refuse(mq.Conn)
			}
			return mqtest.Outcome{}
		})
		rs := w.publish(msg("a"))
		wants(t, rs[0], Stored, "")
		if rs[0].Partition == part(first.Load()).String() {
			t.Error("the message was stored where nothing can be stored")
		}
		rs = w.start(&Request{Timeout: time.Second, Messages: []Message{keyed(keyOn(int(first.Load())), 0, "k")}}).wait()
		wants(t, rs[0], NotSent, fault.Unavailable)
	})
}

func TestUnhealthyPartitionIsPassedOver(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		w.fake.SetLeader(part(1), "")
		var msgs []Message
		for i := range 48 {
			msgs = append(msgs, Message{Body: []byte("x"), Sequence: uint64(i + 1)})
		}
		for _, r := range w.publish(msgs...) {
			wants(t, r, Stored, "")
		}
		if n := len(w.bodies(1)); n != 0 {
			t.Errorf("%d messages on the partition without a leader", n)
		}
	})
}

func TestNothingIsSentAfterTheDeadline(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		hold := make(chan struct{})
		w.fake.OnProduce(func(mqtest.Attempt) mqtest.Outcome { return mqtest.Outcome{Hold: hold} })
		flying := w.start(&Request{Timeout: 2 * time.Second, Messages: []Message{keyed(keyOn(0), 1, "flying")}})
		queued := w.start(&Request{Timeout: time.Second, Messages: []Message{keyed(keyOn(0), 2, "queued")}})
		start := time.Now()
		wants(t, queued.wait()[0], NotSent, fault.DeadlineExceeded)
		if took := time.Since(start); took > time.Second {
			t.Errorf("answered after %s", took)
		}
		wants(t, flying.wait()[0], MaybeSent, fault.DeadlineExceeded)
		close(hold)
		synctest.Wait()
		if d := cmp.Diff([]string{"flying"}, w.bodies(0)); d != "" {
			t.Error(d)
		}
	})
}

func TestCallersDeadlineAndCancellation(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		w.fake.OnProduce(func(mqtest.Attempt) mqtest.Outcome { return mqtest.Refuse(mq.NotLeader) })
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		start := time.Now()
		wants(t, w.startCtx(ctx, &Request{Messages: []Message{keyed(keyOn(0), 0, "a")}}).wait()[0], NotSent, fault.Unavailable)
		if took := time.Since(start); took > 300*time.Millisecond {
			t.Errorf("answered after %s", took)
		}

		hold := make(chan struct{})
		w.fake.OnProduce(func(mqtest.Attempt) mqtest.Outcome { return mqtest.Outcome{Hold: hold} })
		ctx2, cancel2 := context.WithCancel(t.Context())
		c := w.startCtx(ctx2, &Request{Messages: []Message{keyed(keyOn(0), 0, "b")}})
		cancel2()
		if !c.pending() {
			t.Error("a caller that went away ended a write in flight")
		}
		close(hold)
		wants(t, c.wait()[0], Stored, "")
	})
}

func TestKeyedMessageBehindAFailureIsHeldBackInTheRequest(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		k, other := keyOn(0), []byte(nil)
		for i := byte(0); ; i++ { // another key of the same partition
			if other = []byte{i, 'x'}; keyIndex(other, 3) == 0 {
				break
			}
		}
		bad := keyed(k, 0, "bad")
		bad.Headers = []Header{{Name: "Sluice-Id", Value: []byte("x")}}
		rs := w.publish(keyed(k, 0, "1"), bad, keyed(k, 0, "2"), keyed(other, 0, "3"), msg("4"))
		wants(t, rs[0], Stored, "")
		wants(t, rs[1], Refused, fault.ReservedHeader)
		wants(t, rs[2], NotSent, fault.PrecedingFailed)
		wants(t, rs[3], Stored, "")
		wants(t, rs[4], Stored, "")
	})
	bubble(t, func(t *testing.T, w *world) {
		// The broker takes neither: the first for good, so the second must not come without it.
		w.fake.OnProduce(func(mqtest.Attempt) mqtest.Outcome {
			return mqtest.Outcome{Each: func(i int, r mq.Record) error {
				return mq.Errorf([]mq.Class{mq.Auth, mq.NotLeader}[i], "x")
			}}
		})
		rs := w.publish(keyed(keyOn(0), 0, "1"), keyed(keyOn(0), 0, "2"))
		wants(t, rs[0], NotSent, fault.ClusterAuth)
		wants(t, rs[1], NotSent, fault.PrecedingFailed)
	})
	bubble(t, func(t *testing.T, w *world) {
		// The second is stored already: trying the first again would put it behind.
		w.fake.OnProduce(func(a mqtest.Attempt) mqtest.Outcome {
			return mqtest.Outcome{Each: func(i int, r mq.Record) error {
				if i == 0 && a.Number == 1 {
					return mq.Errorf(mq.NotLeader, "x")
				}
				return nil
			}}
		})
		rs := w.publish(keyed(keyOn(0), 0, "1"), keyed(keyOn(0), 0, "2"))
		wants(t, rs[0], NotSent, fault.Unavailable)
		wants(t, rs[1], Stored, "")
		if d := cmp.Diff([]string{"2"}, w.bodies(0)); d != "" {
			t.Error(d)
		}
	})
}

func TestReplacedDriverIsFoundByTheRetry(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		wants(t, w.publish(msg("before"))[0], Stored, "")
		old := w.fake
		next := mqtest.NewFake(mqtest.FakeConfig{})
		next.AddTopic("orders-v1", 3)
		old.OnProduce(func(mqtest.Attempt) mqtest.Outcome {
			w.driver = next // the registry changes it while the write is on its way
			return mqtest.Refuse(mq.Closed)
		})
		wants(t, w.publish(keyed(keyOn(0), 0, "a"))[0], Stored, "")
		w.fake = next
		if d := cmp.Diff([]string{"a"}, w.bodies(0)); d != "" {
			t.Error(d)
		}
		_ = old.Close(t.Context()) // the fake's Close does not fail
	})
}

func TestDriverThatBreaksItsContractIsNotBelieved(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		w.driver = short{w.fake}
		for _, r := range w.publish(keyed(keyOn(0), 0, "a"), keyed(keyOn(0), 0, "b")) {
			wants(t, r, MaybeSent, fault.Unavailable)
		}
	})
}

// short answers with one result too few.
type short struct{ *mqtest.Fake }

func (s short) Producer() mq.Producer { return shortProducer{s.Fake.Producer()} }

type shortProducer struct{ mq.Producer }

func (p shortProducer) Produce(ctx context.Context, id mq.PartitionID, rs []mq.Record, done func([]mq.Result)) {
	p.Producer.Produce(ctx, id, rs, func(res []mq.Result) { done(res[1:]) })
}

func TestDrainWaitsThenRefuses(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		hold := make(chan struct{})
		w.fake.OnProduce(func(mqtest.Attempt) mqtest.Outcome { return mqtest.Outcome{Hold: hold} })
		c := w.start(&Request{Messages: []Message{msg("a")}})
		drained := make(chan error, 1)
		go func() { drained <- w.e.Drain(t.Context()) }()
		synctest.Wait()
		if len(drained) > 0 {
			t.Error("Drain did not wait")
		}
		wants(t, w.publish(msg("b"))[0], NotSent, fault.GoAway)
		close(hold)
		wants(t, c.wait()[0], Stored, "")
		if err := <-drained; err != nil {
			t.Error(err)
		}
	})
}

func TestDrainThatGivesUpAnswersEverybody(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		hold := make(chan struct{})
		w.fake.OnProduce(func(a mqtest.Attempt) mqtest.Outcome {
			if a.Partition == part(1) {
				return mqtest.Refuse(mq.NotLeader)
			}
			return mqtest.Outcome{Hold: hold}
		})
		st := w.e.NewStream()
		flying := w.start(&Request{Stream: st, Messages: []Message{keyed(keyOn(0), 1, "flying")}})
		held := w.start(&Request{Stream: st, Messages: []Message{keyed(keyOn(0), 2, "held")}})
		retrying := w.start(&Request{Stream: st, Messages: []Message{keyed(keyOn(1), 3, "retrying")}})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := w.e.Drain(ctx); err == nil {
			t.Error("Drain says that nothing was in flight")
		}
		wants(t, flying.wait()[0], MaybeSent, fault.DeadlineExceeded)
		if rs := held.wait(); rs[0].Status != NotSent {
			t.Errorf("held: %+v", rs[0])
		}
		if rs := retrying.wait(); rs[0].Status != NotSent {
			t.Errorf("retrying: %+v", rs[0])
		}
		close(hold)
	})
}
