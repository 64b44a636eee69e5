package consume

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

func TestMessagesReachTheClientOnceAndAreCommitted(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world) {
		e := w.node("n1", Config{})
		for p := range 3 {
			w.publish(p, p*1000, 300, 7)
		}
		s := w.open(e, func(sub *Subscription) { sub.MaxInFlight = 1000 })
		seen := map[string]bool{}
		for len(seen) < 900 {
			ds := w.want(s, min(100, 900-len(seen)))
			for _, d := range ds {
				if seen[d.ID] {
					t.Fatalf("%s came twice", d.ID)
				}
				seen[d.ID] = true
				if d.Topic != topic || d.Cluster != cluster || d.Attempt != 1 || d.ID != "id-"+string(d.Record.Body) {
					t.Fatalf("delivery %+v", d)
				}
				if diff := cmp.Diff([]mq.Header{{Name: "h", Value: []byte("v")}}, d.Record.Headers); diff != "" {
					t.Fatal(diff)
				}
			}
			w.settle(e, Accept, "", ds...)
		}
		for p := range 3 {
			w.committed(p, 300)
		}
		if w.ensured != 1 {
			t.Errorf("the control plane was asked %d times", w.ensured)
		}
		s.Close(true)
		if e.leases.Load() != 0 {
			t.Errorf("%d leases left", e.leases.Load())
		}
	})
}

func TestMessageWithoutIDIsCalledByItsPlace(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		e := w.node("n1", Config{})
		w.fake.Append(part(0), mq.Record{Body: []byte("x")})
		if d := w.want(w.open(e), 1)[0]; d.ID != "c1/orders/0/0" {
			t.Errorf("id %q", d.ID)
		}
	})
}

func TestOrderedKeyGoesOnOnlyAfterItsRun(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.group(snapshot.Settings{Order: snapshot.OrderKey, Run: 2})
		e := w.node("n1", Config{})
		w.publish(0, 0, 8, 2)
		a, b := w.open(e), w.open(e)
		first := w.want(a, 2)
		if bodies(first) != "[0 2]" || first[0].Run == 0 || first[0].Run != first[1].Run {
			t.Fatalf("first run: %s, runs %d %d", bodies(first), first[0].Run, first[1].Run)
		}
		second := w.want(b, 2)
		if bodies(second) != "[1 3]" || second[0].Run == first[0].Run {
			t.Fatalf("second run: %s", bodies(second))
		}
		if ds := w.pull(b, 1, time.Second); len(ds) != 0 {
			t.Fatalf("%s went out before the runs were answered", bodies(ds))
		}
		w.settle(e, Accept, "", first...)
		if ds := w.want(b, 2); bodies(ds) != "[4 6]" {
			t.Fatalf("after the first run: %s", bodies(ds))
		}
	})
}

func TestWaitingSessionIsServedAtOnce(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		e := w.node("n1", Config{})
		s := w.open(e)
		w.pull(s, 1, time.Second) // joins
		start := time.Now()
		done := make(chan []Delivery)
		go func() { done <- w.pull(s, 1, 20*time.Second) }()
		time.Sleep(5 * time.Second)
		w.publish(0, 0, 1, 0)
		if ds := <-done; len(ds) != 1 || time.Since(start) != 5*time.Second {
			t.Errorf("%d messages after %v", len(ds), time.Since(start))
		}
	})
}

func TestExpiredLeaseComesAgainAfterTheBackOff(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		e := w.node("n1", Config{})
		w.publish(0, 0, 1, 0)
		s := w.open(e, func(sub *Subscription) { sub.Lease = 2 * time.Second })
		first := w.want(s, 1)[0]
		start := time.Now()
		again := w.want(s, 1)[0]
		if again.Attempt != 2 || time.Since(start) != 3*time.Second {
			t.Errorf("attempt %d after %v", again.Attempt, time.Since(start))
		}
		w.settle(e, Accept, fault.Reassigned, first)
		w.settle(e, Renew, "", again)
		w.settle(e, Accept, "", again)
		w.settle(e, Accept, "", again)
		w.settle(e, Reject, fault.AlreadySettled, again)
		w.committed(0, 1)
	})
}

func TestRejectedMessageGoesToTheDeadLetters(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.copies()
		e := w.node("n1", Config{})
		w.publish(0, 0, 2, 1)
		ds := w.want(w.open(e), 2)
		e.Settle(context.Background(), app, gname, []Ack{{Receipt: ds[0].Receipt, Action: Reject, Cause: strings.Repeat("é", 2000)}})
		w.settle(e, Accept, "", ds[1])
		w.committed(0, 2)
		dead := w.fake.Records(mq.PartitionID{Topic: mq.DeadLetterTopic(gname)})
		if len(dead) != 1 {
			t.Fatalf("%d dead letters", len(dead))
		}
		r := dead[0]
		got := map[string]string{"key": string(r.Key), "body": string(r.Body)}
		for _, h := range []string{"h", mq.HeaderID, mq.HeaderOriginTopic, mq.HeaderOriginCluster, mq.HeaderOriginPartition, mq.HeaderOriginOffset, mq.HeaderAttempt} {
			got[h] = headerOf(r, h)
		}
		want := map[string]string{
			"key": "k0", "body": "0", "h": "v", mq.HeaderID: "id-0", mq.HeaderOriginTopic: topic, mq.HeaderOriginCluster: cluster,
			mq.HeaderOriginPartition: "0", mq.HeaderOriginOffset: "0", mq.HeaderAttempt: "1",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if c := headerOf(r, mq.HeaderCause); len(c) != 1024 {
			t.Errorf("cause of %d bytes", len(c))
		}
	})
}

func TestLongDelayParksAndComesBackUnderItsOrigin(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		w.copies()
		e := w.node("n1", Config{})
		w.publish(1, 0, 2, 0)
		s := w.open(e)
		ds := w.want(s, 2)
		e.Settle(context.Background(), app, gname, []Ack{{Receipt: ds[0].Receipt, Action: Release, Delay: time.Minute}})
		w.settle(e, Accept, "", ds[1])
		w.committed(1, 2) // the parked copy lets the prefix move
		time.Sleep(45 * time.Second)
		d := w.want(s, 1)[0]
		if d.Attempt != 2 || d.Topic != topic || d.Partition != "1" || d.Offset != 0 || d.ID != "id-0" || headerOf(d.Record, "h") != "v" || len(d.Record.Headers) != 1 {
			t.Errorf("parked copy came as %+v", d)
		}
		w.settle(e, Accept, "", d)
	})
}

func TestParkedCopyWaitsUntilDue(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.copies()
		e := w.node("n1", Config{})
		w.publish(0, 0, 1, 0)
		s := w.open(e)
		d := w.want(s, 1)[0]
		e.Settle(context.Background(), app, gname, []Ack{{Receipt: d.Receipt, Action: Release, Delay: time.Minute}})
		if ds := w.pull(s, 1, 59*time.Second); len(ds) != 0 {
			t.Fatalf("came early: %+v", ds)
		}
		w.want(s, 1)
	})
}

func TestUnwritableRetryTopicKeepsMessagesInMemory(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) { // no retry topic at all
		e := w.node("n1", Config{})
		w.publish(0, 0, 1, 0)
		s := w.open(e)
		d := w.want(s, 1)[0]
		e.Settle(context.Background(), app, gname, []Ack{{Receipt: d.Receipt, Action: Release, Delay: time.Minute}})
		if ds := w.pull(s, 1, 59*time.Second); len(ds) != 0 {
			t.Fatal("came early")
		}
		if d := w.want(s, 1)[0]; d.Attempt != 2 {
			t.Errorf("attempt %d", d.Attempt)
		}
	})
}

func TestPausedGroupKeepsPartitionsAndLeasesNothing(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.group(snapshot.Settings{})
		e := w.node("n1", Config{})
		w.publish(0, 0, 2, 0)
		s := w.open(e)
		w.settle(e, Accept, "", w.want(s, 1)...)
		w.change(func(s *snapshot.Snapshot) { s.Groups[gname].Paused = true })
		synctest.Wait()
		if ds := w.pull(s, 1, 20*time.Second); len(ds) != 0 {
			t.Fatal("a paused group leased")
		}
		if lanes, clients := e.Status(gname); len(lanes) != 1 || lanes[0].Blocked == "" || clients != 1 {
			t.Errorf("status %+v, %d clients", lanes, clients)
		}
		w.change(func(s *snapshot.Snapshot) { s.Groups[gname].Paused = false })
		w.want(s, 1)
	})
}

func TestSuspendedGroupLeavesTheBroker(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.group(snapshot.Settings{})
		e := w.node("n1", Config{})
		w.publish(0, 0, 4, 0)
		s := w.open(e)
		w.settle(e, Accept, "", w.want(s, 2)...)
		w.change(func(s *snapshot.Snapshot) { s.Groups[gname].Suspended = true })
		w.members(0)
		w.committed(0, 2)
		w.change(func(s *snapshot.Snapshot) { s.Groups[gname].Suspended = false })
		if ds := w.want(s, 2); bodies(ds) != "[2 3]" {
			t.Errorf("after the suspension: %s", bodies(ds))
		}
	})
}

func TestDrainTellsClientsWaitsAndCommits(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		e := w.node("n1", Config{})
		w.publish(0, 0, 10, 0)
		s := w.open(e)
		ds := w.want(s, 4)
		done := make(chan struct{})
		go func() { w.drain("n1"); close(done) }()
		if ev := <-s.Events(); ev.GoAway == "" {
			t.Errorf("event %+v", ev)
		}
		if _, err := e.Open(context.Background(), app, Subscription{Group: gname, Topics: []string{topic}}); fault.ReasonOf(err) != fault.GoAway {
			t.Errorf("open while draining: %v", err)
		}
		time.Sleep(time.Second)
		w.settle(e, Accept, "", ds...)
		<-done
		if c := w.fake.Commits(gname)[part(0)]; c.Offset != 4 {
			t.Errorf("committed %+v", c)
		}
		if n := len(w.fake.Members(gname)); n != 0 {
			t.Errorf("%d members left", n)
		}
		s.Close(false)
	})
}

func TestQuietGroupIsLeft(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		e := w.node("n1", Config{})
		s := w.open(e)
		w.members(1)
		s.Close(true)
		time.Sleep(4 * time.Minute)
		w.members(1)
		time.Sleep(2 * time.Minute)
		w.members(0)
		if _, n := e.Status(gname); n != 0 {
			t.Errorf("%d clients", n)
		}
	})
}

func TestStatedSettingsMustAgree(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.group(snapshot.Settings{Order: snapshot.OrderKey})
		e := w.node("n1", Config{})
		_, err := e.Open(context.Background(), app, Subscription{Group: gname, Topics: []string{topic}, Order: snapshot.OrderNone})
		if fault.ReasonOf(err) != fault.SubscriptionConflict {
			t.Errorf("other order: %v", err)
		}
		_, err = e.Open(context.Background(), app, Subscription{Group: gname, Topics: []string{"nosuch"}})
		if fault.ReasonOf(err) != fault.TopicNotFound {
			t.Errorf("unknown topic: %v", err)
		}
		if s := w.open(e); s.Settings().Order != snapshot.OrderKey {
			t.Errorf("inherited %+v", s.Settings())
		}
	})
}

func TestReceiptsOfOthersAreRefused(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		e := w.node("n1", Config{})
		w.publish(0, 0, 1, 0)
		d := w.want(w.open(e), 1)[0]
		other := app
		other.App = "other"
		for name, fs := range map[string][]*fault.Error{
			"another app":   e.Settle(context.Background(), other, gname, acksOf(Accept, d)),
			"another group": e.Settle(context.Background(), app, "elsewhere", acksOf(Accept, d)),
			"no receipt":    e.Settle(context.Background(), app, gname, []Ack{{Receipt: []byte("x"), Action: Accept}}),
		} {
			if fs[0] == nil || fs[0].Reason != fault.ReceiptInvalid {
				t.Errorf("%s: %v", name, fs[0])
			}
		}
		w.settle(e, Accept, "", d)
	})
}

func TestIncompatibleGroupIsToldToClients(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.fake.OnJoin(func(mq.GroupConfig) error { return mq.Errorf(mq.Invalid, "inconsistent group protocol") })
		e := w.node("n1", Config{})
		s := w.open(e)
		if _, err := s.Next(context.Background(), 1, 10*time.Second); fault.ReasonOf(err) != fault.IncompatibleGroup {
			t.Errorf("next: %v", err)
		}
		s.Close(true)
		w.fake.OnJoin(nil)
		time.Sleep(15 * time.Second)
		w.publish(0, 0, 1, 0)
		w.want(w.open(e), 1)
	})
}

func TestRetentionThatOvertakesIsCountedAndPassed(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.publish(0, 0, 10, 0)
		e := w.node("n1", Config{})
		s := w.open(e)
		w.settle(e, Accept, "", w.want(s, 10)...)
		w.committed(0, 10)
		w.drain("n1")
		w.publish(0, 10, 10, 0)
		w.fake.Trim(part(0), 15)
		e = w.node("n1", Config{})
		if ds := w.want(w.open(e), 5); bodies(ds) != "[15 16 17 18 19]" {
			t.Errorf("after retention: %s", bodies(ds))
		}
	})
}

type broken struct{ from, next int64 }

func (b broken) Error() string         { return "broken" }
func (b broken) Range() (int64, int64) { return b.from, b.next }

func TestUnreadableBatchGoesToTheDeadLettersByItsOffsets(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.copies()
		w.publish(0, 0, 10, 0)
		w.fake.OnFetch(func(_ string, p mq.PartitionID, offset int64) error {
			if p == part(0) && offset < 4 {
				return &mq.Error{Class: mq.TooLarge, Msg: "bomb", Cause: broken{offset, 4}}
			}
			return nil
		})
		e := w.node("n1", Config{})
		ds := w.want(w.open(e), 6)
		if bodies(ds) != "[4 5 6 7 8 9]" {
			t.Fatalf("came %s", bodies(ds))
		}
		w.settle(e, Accept, "", ds...)
		w.committed(0, 10)
		if dead := w.fake.Records(mq.PartitionID{Topic: mq.DeadLetterTopic(gname)}); len(dead) != 1 || headerOf(dead[0], mq.HeaderOriginOffset) != "0" {
			t.Errorf("dead letters %+v", dead)
		}
	})
}
