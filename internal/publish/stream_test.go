package publish

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/mq/mqtest"
)

func TestStreamHoldsBackAKeyWhileItIsUnderWay(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		hold := make(chan struct{})
		w.fake.OnProduce(func(a mqtest.Attempt) mqtest.Outcome {
			if string(a.Records[0].Body) == "1" {
				return mqtest.Outcome{Hold: hold}
			}
			return mqtest.Outcome{}
		})
		st, k := w.e.NewStream(), keyOn(0)
		calls := []call{w.start(&Request{Stream: st, Messages: []Message{keyed(k, 1, "1")}})}
		for i := 2; i <= 20; i++ {
			calls = append(calls, w.start(&Request{Stream: st, Messages: []Message{keyed(k, uint64(i), fmt.Sprint(i))}}))
		}
		wants(t, w.start(&Request{Stream: st, Messages: []Message{keyed(keyOn(1), 21, "other")}}).wait()[0], Stored, "")
		close(hold)
		var want []string
		for i, c := range calls {
			wants(t, c.wait()[0], Stored, "")
			want = append(want, fmt.Sprint(i+1))
		}
		if d := cmp.Diff(want, w.bodies(0)); d != "" {
			t.Error(d)
		}
		if n := len(w.fake.Attempts()); n != 3 {
			t.Errorf("%d attempts: what was held did not go out together", n)
		}
		if len(st.keys) != 0 || len(st.held) != 0 || len(st.refused) != 0 {
			t.Errorf("the stream remembers %d keys, %d held slices, %d refusals", len(st.keys), len(st.held), len(st.refused))
		}
	})
}

// A message may join a held slice after its last wait ended and before its goroutine got to send it.
func TestHeldSliceThatIsJoinedWhileItIsReleasedIsSentOnce(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		k, other := keyOn(0), []byte(nil)
		for i := byte(0); ; i++ {
			if other = []byte{i, 'x'}; keyIndex(other, 3) == 0 {
				break
			}
		}
		first, second := make(chan struct{}), make(chan struct{})
		w.fake.OnProduce(func(a mqtest.Attempt) mqtest.Outcome {
			switch a.Number {
			case 1:
				return mqtest.Outcome{Hold: first}
			case 2:
				return mqtest.Outcome{Hold: second}
			}
			return mqtest.Outcome{}
		})
		st := w.e.NewStream()
		start := func(m Message) call { return w.start(&Request{Stream: st, Messages: []Message{m}}) }
		one, blocker := start(keyed(k, 1, "1")), start(keyed(other, 2, "blocker"))
		st.mu.Lock()
		var owner *slice
		for _, ks := range st.keys {
			if string(ks.owner.recs[0].Body) == "1" {
				owner = ks.owner
			}
		}
		st.mu.Unlock()
		two := start(keyed(k, 3, "2"))
		st.mu.Lock()
		held := owner.next[0]
		owner.next, held.waits = nil, 0 // as at the end of the first message's slice
		st.mu.Unlock()
		behind := start(keyed(other, 4, "behind")) // joins, and waits for the blocker
		held.release()
		if !two.pending() || !behind.pending() {
			t.Error("the slice was sent before all that it waits for was settled")
		}
		close(second)
		close(first)
		for _, c := range []call{one, blocker, two, behind} {
			wants(t, c.wait()[0], Stored, "")
		}
		held.release() // one that comes too late
		if d := cmp.Diff([]string{"1", "2", "behind", "blocker"}, slices.Sorted(slices.Values(w.bodies(0)))); d != "" {
			t.Errorf("each is sent once (-want +got):\n%s", d)
		}
	})
}

func TestStreamRefusesAKeyUntilItsFailedSequenceComesAgain(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		st, k := w.e.NewStream(), keyOn(0)
		send := func(msgs ...Message) []Result { return w.start(&Request{Stream: st, Messages: msgs}).wait() }
		failBodies(w.fake, mq.Auth, 1, "2")
		rs := send(keyed(k, 1, "1"), keyed(k, 2, "2"), keyed(keyOn(1), 3, "other"))
		wants(t, rs[0], Stored, "")
		wants(t, rs[1], NotSent, fault.ClusterAuth)
		wants(t, send(keyed(k, 4, "4"))[0], NotSent, fault.PrecedingFailed)
		wants(t, send(keyed(keyOn(1), 5, "other"))[0], Stored, "")
		rs = send(keyed(k, 2, "2"), keyed(k, 4, "4"))
		wants(t, rs[0], Stored, "")
		wants(t, rs[1], Stored, "")
		if d := cmp.Diff([]string{"1", "2", "4"}, w.bodies(0)); d != "" {
			t.Error(d)
		}

		// Without sequences the id does it; a refused message counts as failed too.
		bad := keyed(k, 0, "bad")
		bad.ID, bad.Tag = "id-bad", "a||b"
		wants(t, send(bad)[0], Refused, fault.InvalidArgument)
		wants(t, send(keyed(k, 0, "5"))[0], NotSent, fault.PrecedingFailed)
		bad.Tag = "a"
		wants(t, send(bad)[0], Stored, "")
		wants(t, send(keyed(k, 0, "5"))[0], Stored, "")
	})
}

func TestWhatIsHeldBehindAFailureFailsEvenIfTheFailedOneIsBack(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		// 1 is under way and will fail, 2 waits behind it in a slice that also waits for another key.
		k, other := keyOn(0), []byte(nil)
		for i := byte(0); ; i++ {
			if other = []byte{i, 'x'}; keyIndex(other, 3) == 0 {
				break
			}
		}
		first, second := make(chan struct{}), make(chan struct{})
		w.fake.OnProduce(func(a mqtest.Attempt) mqtest.Outcome {
			switch a.Number {
			case 1:
				return mqtest.Outcome{Hold: first, Err: mq.Errorf(mq.Auth, "x")}
			case 2:
				return mqtest.Outcome{Hold: second}
			}
			return mqtest.Outcome{}
		})
		st := w.e.NewStream()
		start := func(m Message) call { return w.start(&Request{Stream: st, Messages: []Message{m}}) }
		one, blocker := start(keyed(k, 1, "1")), start(keyed(other, 2, "blocker"))
		two, behind := start(keyed(k, 3, "2")), start(keyed(other, 4, "behind"))
		close(first)
		wants(t, one.wait()[0], NotSent, fault.ClusterAuth)
		oneAgain := start(keyed(k, 1, "1")) // joins the held slice, after 2
		close(second)
		wants(t, blocker.wait()[0], Stored, "")
		wants(t, two.wait()[0], NotSent, fault.PrecedingFailed)
		wants(t, oneAgain.wait()[0], Stored, "")
		wants(t, behind.wait()[0], Stored, "")
		wants(t, start(keyed(k, 3, "2")).wait()[0], Stored, "")
		if d := cmp.Diff([]string{"blocker", "behind", "1", "2"}, w.bodies(0)); d != "" {
			t.Error(d)
		}
	})
}

func TestHeldMessageIsAnsweredAtItsOwnDeadline(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		hold := make(chan struct{})
		w.fake.OnProduce(func(mqtest.Attempt) mqtest.Outcome { return mqtest.Outcome{Hold: hold} })
		st, k := w.e.NewStream(), keyOn(0)
		one := w.start(&Request{Stream: st, Messages: []Message{keyed(k, 1, "1")}})
		two := w.start(&Request{Stream: st, Timeout: time.Second, Messages: []Message{keyed(k, 2, "2")}})
		three := w.start(&Request{Stream: st, Messages: []Message{keyed(k, 3, "3")}})
		start := time.Now()
		wants(t, two.wait()[0], NotSent, fault.DeadlineExceeded)
		if took := time.Since(start); took > time.Second {
			t.Errorf("answered after %s", took)
		}
		close(hold)
		wants(t, one.wait()[0], Stored, "")
		wants(t, three.wait()[0], NotSent, fault.PrecedingFailed)
	})
}

func TestRefusedKeysAreBounded(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, w *world) {
		st := w.e.NewStream()
		w.fake.OnProduce(func(mqtest.Attempt) mqtest.Outcome { return mqtest.Refuse(mq.Auth) })
		const n = maxRefusedKeys + 500
		batch := func(from, to int) []Message {
			var msgs []Message
			for i := from; i < to; i++ {
				msgs = append(msgs, keyed(fmt.Appendf(nil, "k%d", i), uint64(i+1), "x"))
			}
			return msgs
		}
		for i := 0; i < n; i += 500 {
			for _, r := range w.start(&Request{Stream: st, Messages: batch(i, min(i+500, n))}).wait() {
				if r.Status != NotSent {
					t.Fatalf("%+v", r)
				}
			}
		}
		if len(st.refused) > maxRefusedKeys || !st.all {
			t.Errorf("%d refused keys, all=%t", len(st.refused), st.all)
		}
		w.fake.OnProduce(nil)
		// A key that never failed is refused too, until the suffix comes again in order.
		wants(t, w.start(&Request{Stream: st, Messages: []Message{keyed([]byte("new"), n+1, "x")}}).wait()[0], NotSent, fault.PrecedingFailed)
		for i := 0; i < n; i += 500 {
			for _, r := range w.start(&Request{Stream: st, Messages: batch(i, min(i+500, n))}).wait() {
				wants(t, r, Stored, "")
			}
		}
		wants(t, w.start(&Request{Stream: st, Messages: []Message{keyed([]byte("new"), n+1, "x")}}).wait()[0], Stored, "")
		if len(st.refused) != 0 || st.all {
			t.Errorf("%d refused keys are left, all=%t", len(st.refused), st.all)
		}
	})
}

// A client that sends its unacknowledged suffix again, in order, over a cluster
// that fails at random in every way there is, gets the order of each key right:
// the first copies of a key's messages lie in the order in which they were sent.
func TestOrderOfEachKeySurvivesRandomFailures(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		keys := rapid.IntRange(1, 6).Draw(rt, "keys")
		total := rapid.IntRange(1, 60).Draw(rt, "messages")
		percent := rapid.IntRange(0, 60).Draw(rt, "failures")
		withStream := rapid.Bool().Draw(rt, "stream")
		var err error
		bubble(t, func(t *testing.T, w *world) {
			c := &client{w: w, rnd: rand.New(rand.NewPCG(seed, 1)), keys: keys}
			if withStream {
				c.stream = w.e.NewStream()
			}
			script(w.fake, seed, percent)
			c.run(total)
			err = c.check()
			if s := c.stream; err == nil && s != nil && (len(s.keys) != 0 || len(s.held) != 0) {
				err = fmt.Errorf("the stream still holds %d keys and %d slices", len(s.keys), len(s.held))
			}
		})
		if err != nil { // outside of the bubble, whose goroutine is not rapid's
			rt.Fatalf("seed %d: %v", seed, err)
		}
	})
}

// script makes attempts fail at random: refused as a whole, replies lost with the
// records stored or not, late answers. A partition's attempts come one by one, so
// that a generator for each partition makes the run repeatable.
func script(f *mqtest.Fake, seed uint64, percent int) {
	rnds := []*rand.Rand{}
	for i := range uint64(3) {
		rnds = append(rnds, rand.New(rand.NewPCG(seed, 100+i)))
	}
	refusals := []mq.Class{mq.Conn, mq.NotLeader, mq.Busy, mq.TooFewReplicas, mq.Auth, mq.Fenced}
	f.OnProduce(func(a mqtest.Attempt) mqtest.Outcome {
		rnd := rnds[a.Partition.Index]
		o := mqtest.Outcome{Delay: time.Duration(rnd.IntN(30)) * time.Millisecond, AnswerDelay: time.Duration(rnd.IntN(30)) * time.Millisecond}
		if rnd.IntN(100) >= percent {
			return o
		}
		switch rnd.IntN(4) {
		case 0:
			o.Err, o.Stored = mqtest.LoseReply().Err, true
		case 1:
			o.Err = &mq.Error{Class: mq.Conn, MaybeSent: true}
		default:
			o.Err = mq.Errorf(refusals[rnd.IntN(len(refusals))], "scripted")
		}
		return o
	})
}

// client publishes over one stream with several batches out, and sends what
// failed again, in order and before anything new, as an SDK does.
type client struct {
	w      *world
	rnd    *rand.Rand
	keys   int
	stream *Stream
	next   uint64
	sent   map[string][]uint64 // key -> sequences in the order of sending
}

func (c *client) run(total int) {
	c.sent = map[string][]uint64{}
	var again []Message
	for left := total; left > 0 || len(again) > 0; {
		calls, batches := []call{}, [][]Message{}
		out := 1
		if c.stream != nil {
			out = 1 + c.rnd.IntN(4) // without a stream a caller waits for each answer
		}
		for ; out > 0; out-- {
			var b []Message
			for range 1 + c.rnd.IntN(8) {
				switch {
				case len(again) > 0:
					b, again = append(b, again[0]), again[1:]
				case left > 0:
					b, left = append(b, c.message()), left-1
				}
			}
			if len(b) == 0 {
				break
			}
			batches = append(batches, b)
			timeout := time.Duration(1+c.rnd.IntN(3)) * 400 * time.Millisecond
			calls = append(calls, c.w.start(&Request{Stream: c.stream, Timeout: timeout, Messages: slices.Clone(b)}))
		}
		for i, call := range calls {
			for j, r := range call.wait() {
				if r.Status != Stored {
					again = append(again, batches[i][j])
				}
			}
		}
		slices.SortStableFunc(again, func(a, b Message) int { return int(a.Sequence) - int(b.Sequence) })
	}
}

func (c *client) message() Message {
	c.next++
	key := fmt.Sprint("key", c.rnd.IntN(c.keys))
	c.sent[key] = append(c.sent[key], c.next)
	return keyed([]byte(key), c.next, fmt.Sprint(c.next))
}

func (c *client) check() error {
	got := map[string][]uint64{}
	for p := range int32(3) {
		for _, r := range c.w.fake.Records(part(p)) {
			var seq uint64
			if _, err := fmt.Sscan(string(r.Body), &seq); err != nil {
				return err
			}
			if k := string(r.Key); !slices.Contains(got[k], seq) {
				got[k] = append(got[k], seq)
			}
		}
	}
	if d := cmp.Diff(c.sent, got); d != "" {
		return fmt.Errorf("order of first copies (-sent +stored):\n%s", d)
	}
	return nil
}
