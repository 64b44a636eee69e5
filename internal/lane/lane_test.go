package lane

import (
	"fmt"
	"testing"
	"time"

	"github.com/sluice-mq/sluice/internal/ackmap"
	"github.com/sluice-mq/sluice/internal/mq"
)

func config(m Mode) Config {
	return Config{
		Mode:     m,
		Policies: []Policy{{MaxAttempts: 3, BackoffMin: time.Second, BackoffMax: time.Minute}},
		Run:      4, Window: 100,
	}
}

func message(offset int64, key string) Message {
	r := &mq.Record{Offset: offset, Body: []byte("body")}
	if key != "" {
		r.Key = []byte(key)
	}
	return Message{Offset: offset, Record: r}
}

// fill makes a lane that knows a message for each key, from offset 0 on.
func fill(t testing.TB, cfg Config, keys ...string) *Lane {
	t.Helper()
	l := New(cfg, 0, ackmap.Map{}, 1)
	for i, k := range keys {
		if !l.Admit(0, message(int64(i), k)) {
			t.Fatalf("no room for %d", i)
		}
	}
	return l
}

func take(l *Lane, now time.Duration, client uint64, n int) []Leased {
	return l.Lease(now, Request{Client: client, Max: n, MaxBytes: 1 << 20, For: 30 * time.Second, Policies: 1}, nil)
}

func offsets(ls []Leased) string {
	var out []int64
	for _, l := range ls {
		out = append(out, l.Offset)
	}
	return fmt.Sprint(out)
}

func wantOffsets(t *testing.T, what string, got []Leased, want string) {
	t.Helper()
	if offsets(got) != want {
		t.Errorf("%s: leased %s, want %s", what, offsets(got), want)
	}
}

func settle(t *testing.T, l *Lane, now time.Duration, d Leased, a Action, want Verdict) {
	t.Helper()
	if got := l.Settle(now, Answer{Offset: d.Offset, Serial: d.Serial, Action: a}); got != want {
		t.Errorf("action %d on offset %d: verdict %d, want %d", a, d.Offset, got, want)
	}
}

func TestLaneHoldsBackKeyUntilRunIsAnswered(t *testing.T) {
	t.Parallel()
	l := fill(t, config(ByKey), "a", "b", "a", "a", "b")
	first := take(l, 0, 1, 2)
	wantOffsets(t, "first", first, "[0 2]")
	wantOffsets(t, "another client", take(l, 0, 2, 10), "[1 4]")
	wantOffsets(t, "nothing is left", take(l, 0, 3, 10), "[]")
	settle(t, l, 0, first[0], Accept, OK)
	wantOffsets(t, "half of the run answered", take(l, 0, 3, 10), "[]")
	settle(t, l, 0, first[1], Accept, OK)
	wantOffsets(t, "all of it answered", take(l, 0, 3, 10), "[3]")
}

func TestLaneTakesRunBackOnRelease(t *testing.T) {
	t.Parallel()
	l := fill(t, config(ByPartition), "a", "b", "c", "d", "e")
	run := take(l, 0, 1, 10)
	wantOffsets(t, "run", run, "[0 1 2 3]")
	settle(t, l, 0, run[1], Release, OK)
	if n := len(l.Effects.Revoked); n != 2 {
		t.Fatalf("%d leases called off, want those of 2 and 3", n)
	}
	settle(t, l, 0, run[2], Accept, Reassigned)
	settle(t, l, 0, run[0], Accept, OK)
	wantOffsets(t, "the head is in back-off", take(l, 0, 2, 10), "[]")
	l.Tick(time.Second)
	again := take(l, time.Second, 2, 10)
	wantOffsets(t, "after the back-off", again, "[1 2 3 4]")
	if again[0].Attempt != 2 || again[1].Attempt != 1 {
		t.Errorf("attempts %d and %d, want 2 and 1", again[0].Attempt, again[1].Attempt)
	}
}

// Regression 8: an answer that is sent again gets the same verdict, and one after a renewal works.
func TestRegression8SettlingTwice(t *testing.T) {
	t.Parallel()
	l := fill(t, config(Any), "", "", "")
	d := take(l, 0, 1, 3)
	settle(t, l, 0, d[0], Accept, OK)
	settle(t, l, 0, d[0], Accept, OK)
	settle(t, l, 0, d[0], Release, AlreadySettled)
	settle(t, l, 0, d[1], Release, OK)
	settle(t, l, 0, d[1], Release, OK)
	settle(t, l, 0, d[1], Accept, AlreadySettled)
	if v := l.Settle(0, Answer{Offset: 2, Serial: d[2].Serial, Action: Renew, Delay: time.Minute}); v != OK {
		t.Errorf("renew: %d", v)
	}
	l.Tick(59 * time.Second)
	settle(t, l, 59*time.Second, d[2], Accept, OK)
	settle(t, l, 59*time.Second, d[2], Renew, AlreadySettled)
}

func TestLateAcceptCountsUntilTheMessageGoesOutAgain(t *testing.T) {
	t.Parallel()
	l := fill(t, config(Any), "", "")
	d := take(l, 0, 1, 2)
	l.Tick(30 * time.Second)
	settle(t, l, 30*time.Second, d[0], Renew, Expired)
	settle(t, l, 30*time.Second, d[0], Accept, OK)
	l.Tick(31 * time.Second)
	again := take(l, 31*time.Second, 2, 2)
	wantOffsets(t, "after expiry", again, "[1]")
	settle(t, l, 31*time.Second, d[1], Accept, Reassigned)
	settle(t, l, 31*time.Second, again[0], Accept, OK)
}

func TestReturnCountsNoAttemptAndItsReceiptIsVoid(t *testing.T) {
	t.Parallel()
	l := fill(t, config(Any), "")
	d := take(l, 0, 1, 1)
	settle(t, l, 0, d[0], Return, OK)
	again := take(l, 0, 2, 1)
	if len(again) != 1 || again[0].Attempt != 1 {
		t.Fatalf("leased again: %+v", again)
	}
	settle(t, l, 0, d[0], Accept, Reassigned)
	settle(t, l, 0, d[0], Return, OK)
	if l.Leased() != 1 {
		t.Error("the old receipt ended the new lease")
	}
}

func TestReleasedMessagesDeadLetterSaysWhy(t *testing.T) {
	t.Parallel()
	c := config(Any)
	c.Policies[0].MaxAttempts = 1
	l := fill(t, c, "")
	d := take(l, 0, 1, 1)
	settle(t, l, 0, d[0], Release, OK)
	if len(l.Effects.Dead) != 1 || l.Effects.Dead[0].Cause == "" {
		t.Errorf("dead letters: %+v", l.Effects.Dead)
	}
}

func TestDeadLetterCountsOnlyOnceStored(t *testing.T) {
	t.Parallel()
	l := fill(t, config(Any), "", "")
	d := take(l, 0, 1, 2)
	l.Settle(0, Answer{Offset: 0, Serial: d[0].Serial, Action: Reject, Cause: "why"})
	if len(l.Effects.Dead) != 1 || l.Effects.Dead[0].Cause != "why" || l.Effects.Dead[0].Attempts != 1 {
		t.Fatalf("dead letters: %+v", l.Effects.Dead)
	}
	settle(t, l, 0, d[1], Accept, OK)
	if l.Base() != 0 {
		t.Fatal("the prefix passed a dead letter that is not stored")
	}
	l.Stored(0, l.Effects.Dead[0].Serial)
	if l.Base() != 2 || l.Buffered() != 0 || l.Bytes() != 0 {
		t.Errorf("base %d, %d messages, %d bytes", l.Base(), l.Buffered(), l.Bytes())
	}
}

func TestLongDelaysPark(t *testing.T) {
	t.Parallel()
	cfg := config(Any)
	cfg.ParkAfter = 30 * time.Second
	l := fill(t, cfg, "", "")
	d := take(l, 0, 1, 2)
	l.Settle(0, Answer{Offset: 0, Serial: d[0].Serial, Action: Release, Delay: time.Minute})
	l.Settle(0, Answer{Offset: 1, Serial: d[1].Serial, Action: Release, Delay: 10 * time.Second})
	if len(l.Effects.Park) != 1 || l.Effects.Park[0].Delay != time.Minute || l.Effects.Park[0].Attempts != 1 {
		t.Fatalf("parked: %+v", l.Effects.Park)
	}
	l.Unstored(0, 0, l.Effects.Park[0].Serial, time.Minute)
	l.Tick(time.Minute)
	wantOffsets(t, "parking failed", take(l, time.Minute, 1, 10), "[0 1]")
}

func TestOrderedModesNeverPark(t *testing.T) {
	t.Parallel()
	cfg := config(ByKey)
	cfg.ParkAfter = 30 * time.Second
	l := fill(t, cfg, "a", "a")
	d := take(l, 0, 1, 1)
	l.Settle(0, Answer{Offset: 0, Serial: d[0].Serial, Action: Release, Delay: time.Hour})
	if len(l.Effects.Park) != 0 {
		t.Fatal("parked")
	}
	wantOffsets(t, "behind the head", take(l, 0, 1, 10), "[]")
}

// Regression 15: a full window takes nothing more.
func TestRegression15WindowFull(t *testing.T) {
	t.Parallel()
	cfg := config(Any)
	l := New(cfg, 0, ackmap.Map{}, 1)
	for i := range int64(cfg.Window) {
		if !l.Admit(0, message(i, "")) {
			t.Fatalf("no room for %d", i)
		}
	}
	if l.Admit(0, message(100, "")) || !l.Full() {
		t.Fatal("a full window took a message")
	}
	d := take(l, 0, 1, 100)
	for _, m := range d[1:] {
		settle(t, l, 0, m, Accept, OK)
	}
	if l.Blocked() == "" || l.Admit(0, message(100, "")) {
		t.Fatalf("blocked: %q", l.Blocked())
	}
	settle(t, l, 0, d[0], Accept, OK)
	if !l.Admit(0, message(100, "")) {
		t.Fatal("no room after the head was done")
	}
}

// Regression 9: N-1 of N are done, the owner changes: only the last one comes again.
func TestRegression9MapSurvivesOwner(t *testing.T) {
	t.Parallel()
	l := fill(t, config(Any), make([]string, 50)...)
	for _, m := range take(l, 0, 1, 50)[1:] {
		settle(t, l, 0, m, Accept, OK)
	}
	p := l.Position()
	carried, ok := ackmap.Decode(ackmap.Encode("id", p.Offset, p.Map), "id", p.Offset)
	if !ok || p.Offset != 0 {
		t.Fatalf("position %+v", p)
	}
	next := New(config(Any), 0, carried, 99)
	for i := range int64(10) { // the new owner knows few of them when it commits
		next.Admit(0, message(i, ""))
	}
	again := next.Position()
	for i := int64(1); i < 50; i++ {
		if !again.Map.Done(i) {
			t.Fatalf("the new owner's map forgot %d", i)
		}
	}
	for i := int64(10); i < 52; i++ {
		next.Admit(0, message(i, ""))
	}
	wantOffsets(t, "new owner", take(next, 0, 1, 100), "[0 50 51]")
}

// Regression 1: the same offset comes again under a new owner while the old lease is out: it is delivered.
func TestRegression1SameOffsetInNewEpoch(t *testing.T) {
	t.Parallel()
	old := fill(t, config(Any), "")
	d := take(old, 0, 1, 1)
	next := New(config(Any), 0, ackmap.Map{}, 1<<40)
	next.Admit(0, message(0, ""))
	settle(t, next, 0, d[0], Accept, Reassigned)
	wantOffsets(t, "new epoch", take(next, 0, 2, 1), "[0]")
}

func TestHeadThatBlocksAFullWindowIsParked(t *testing.T) {
	t.Parallel()
	cfg := config(Any)
	cfg.ParkAfter = 30 * time.Second
	l := fill(t, cfg, make([]string, 95)...)
	d := take(l, 0, 1, 95)
	for _, m := range d[1:] {
		settle(t, l, 0, m, Accept, OK)
	}
	settle(t, l, 0, d[0], Release, OK) // 1 s of back-off only
	if len(l.Effects.Park) != 1 || l.Effects.Park[0].Offset != 0 {
		t.Fatalf("parked: %+v", l.Effects.Park)
	}
	l.Stored(0, l.Effects.Park[0].Serial)
	if l.Base() != 95 {
		t.Errorf("base %d", l.Base())
	}
}

func TestGapsAreDone(t *testing.T) {
	t.Parallel()
	l := New(config(Any), 10, ackmap.Map{}, 1)
	l.Pass(1_000_000)
	if l.Base() != 1_000_000 || !l.Dirty() {
		t.Fatalf("base %d", l.Base())
	}
	l.Admit(0, message(1_000_000, ""))
	l.Pass(2_000_000) // further than the window
	if l.Next() != 2_000_000 {
		t.Fatalf("next %d", l.Next())
	}
	settle(t, l, 0, take(l, 0, 1, 1)[0], Accept, OK)
	if l.Base() != 2_000_000 {
		t.Fatalf("base %d", l.Base())
	}
}

// Regression 17: a change of the order keeps leases and positions.
func TestRegression17OrderChangesWhileRunning(t *testing.T) {
	t.Parallel()
	l := fill(t, config(Any), "a", "a", "b", "a")
	d := take(l, 0, 1, 2)
	l.Configure(config(ByKey))
	wantOffsets(t, "a is out twice", take(l, 0, 2, 10), "[2]")
	settle(t, l, 0, d[0], Accept, OK)
	wantOffsets(t, "still once", take(l, 0, 2, 10), "[]")
	settle(t, l, 0, d[1], Accept, OK)
	l.Configure(config(Any))
	wantOffsets(t, "free again", take(l, 0, 2, 10), "[3]")
}

func TestCloseOfAClientGivesItsLeasesBack(t *testing.T) {
	t.Parallel()
	l := fill(t, config(ByKey), "a", "a", "b", "c")
	take(l, 0, 1, 3)
	other := take(l, 0, 2, 3)
	l.Return(0, 1)
	again := take(l, 0, 3, 10)
	wantOffsets(t, "given back", again, "[0 1 2]")
	for _, d := range again {
		if d.Attempt != 1 {
			t.Errorf("offset %d: attempt %d", d.Offset, d.Attempt)
		}
	}
	settle(t, l, 0, other[0], Accept, OK)
}

func BenchmarkLeaseAccept(b *testing.B) {
	for name, mode := range map[string]Mode{"any": Any, "key": ByKey} {
		b.Run(name, func(b *testing.B) {
			cfg := config(mode)
			cfg.Window, cfg.Run = 24_000, 16
			l := New(cfg, 0, ackmap.Map{}, 1)
			records := make([]mq.Record, 1000)
			for i := range records {
				records[i] = mq.Record{Key: fmt.Appendf(nil, "key-%d", i), Body: make([]byte, 1024)}
			}
			out := make([]Leased, 0, 100)
			var next int64
			b.ReportAllocs()
			for done := 0; done < b.N; {
				if l.Idle() < 100 {
					for range 1000 {
						l.Admit(0, Message{Offset: next, Record: &records[next%1000]})
						next++
					}
				}
				out = l.Lease(0, Request{Client: 1, Max: 100, MaxBytes: 1 << 20, For: time.Second, Policies: 1}, out[:0])
				for i := range out {
					l.Settle(0, Answer{Offset: out[i].Offset, Serial: out[i].Serial, Action: Accept})
				}
				done += len(out)
				l.Effects.Reset()
			}
		})
	}
}

func TestExpiryInsideARunCountsOneAttemptOnly(t *testing.T) {
	t.Parallel()
	l := fill(t, config(ByKey), "a", "a", "a")
	run := take(l, 0, 1, 3)
	settle(t, l, 0, run[0], Accept, OK)
	l.Tick(30 * time.Second)
	if n := len(l.Effects.Revoked); n != 1 || l.Effects.Revoked[0].Lease.Offset != 2 {
		t.Fatalf("called off: %+v", l.Effects.Revoked)
	}
	settle(t, l, 30*time.Second, run[2], Accept, Reassigned)
	wantOffsets(t, "the head is in back-off", take(l, 30*time.Second, 2, 3), "[]")
	l.Tick(31 * time.Second)
	again := take(l, 31*time.Second, 2, 3)
	wantOffsets(t, "after the back-off", again, "[1 2]")
	if again[0].Attempt != 2 || again[1].Attempt != 1 {
		t.Errorf("attempts %d and %d, want 2 and 1", again[0].Attempt, again[1].Attempt)
	}
}

// Done offsets of the owner before widen the window too: the ring must not wrap onto an open message.
func TestCarriedMapWiderThanTheRing(t *testing.T) {
	t.Parallel()
	cfg := config(Any)
	cfg.Window = 1000
	words := make([]uint64, 10)
	for i := range words {
		words[i] = ^uint64(0)
	}
	l := New(cfg, 0, ackmap.Map{Words: words}, 1)
	for i := range int64(700) {
		l.Admit(0, message(i, ""))
	}
	for _, d := range take(l, 0, 1, 1000) {
		settle(t, l, 0, d, Accept, OK)
	}
	if l.Base() != 700 {
		t.Errorf("base %d", l.Base())
	}
}
