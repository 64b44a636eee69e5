package mqtest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/mq/mqtest"
)

func TestMain(m *testing.M) { mqtest.Main(m) }

func TestFakeConforms(t *testing.T) {
	t.Parallel()
	mqtest.Run(t, func(*testing.T) mq.Driver { return mqtest.NewFake(mqtest.FakeConfig{}) }, mqtest.Patience(10*time.Second))
}

func TestFakeOfAnOldClusterConforms(t *testing.T) {
	t.Parallel()
	mqtest.Run(t, func(*testing.T) mq.Driver {
		return mqtest.NewFake(mqtest.FakeConfig{Caps: &mq.Caps{CreateTopics: true, DeleteTopics: true, MaxRecordBytes: 1 << 20, Version: "0.10"}})
	}, mqtest.Patience(10*time.Second))
}

var part = mq.PartitionID{Topic: "t"}

func produce(f *mqtest.Fake, ctx context.Context, bodies ...string) chan []mq.Result {
	var records []mq.Record
	for _, b := range bodies {
		records = append(records, mq.Record{Body: []byte(b)})
	}
	done := make(chan []mq.Result, 1)
	f.Producer().Produce(ctx, part, records, func(rs []mq.Result) { done <- rs })
	return done
}

func TestFakeLosesRepliesAndRefuses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := mqtest.NewFake(mqtest.FakeConfig{})
		defer f.Close(t.Context())
		f.AddTopic("t", 1)
		f.OnProduce(func(a mqtest.Attempt) mqtest.Outcome {
			switch a.Number {
			case 1:
				return mqtest.LoseReply()
			case 2:
				return mqtest.Refuse(mq.Busy)
			default:
				return mqtest.Outcome{Delay: time.Hour, Each: func(i int, _ mq.Record) error {
					if i == 1 {
						return mq.Errorf(mq.Invalid, "no")
					}
					return nil
				}}
			}
		})
		if r := (<-produce(f, t.Context(), "a"))[0]; !mq.MaybeSent(r.Err) {
			t.Errorf("lost reply: %v", r.Err)
		}
		if r := (<-produce(f, t.Context(), "b"))[0]; !errors.Is(r.Err, mq.Busy) || mq.MaybeSent(r.Err) {
			t.Errorf("refused: %v", r.Err)
		}
		start := time.Now()
		rs := <-produce(f, t.Context(), "c", "d", "e")
		if time.Since(start) != time.Hour || rs[0].Err != nil || rs[1].Err == nil || rs[2].Err != nil {
			t.Errorf("after %v: %v", time.Since(start), rs)
		}
		var got []string
		for _, r := range f.Records(part) {
			got = append(got, string(r.Body))
		}
		if diff := cmp.Diff([]string{"a", "c", "e"}, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestFakeWriteRunsOnAfterItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := mqtest.NewFake(mqtest.FakeConfig{})
		defer f.Close(t.Context())
		f.AddTopic("t", 1)
		hold := make(chan struct{})
		f.OnProduce(func(mqtest.Attempt) mqtest.Outcome { return mqtest.Outcome{Hold: hold} })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		flying := produce(f, ctx, "flying")
		synctest.Wait()
		waiting := produce(f, ctx, "waiting")
		if r := (<-flying)[0]; !errors.Is(r.Err, mq.Timeout) || !mq.MaybeSent(r.Err) {
			t.Errorf("in flight: %v", r.Err)
		}
		if r := (<-waiting)[0]; !errors.Is(r.Err, mq.Timeout) || mq.MaybeSent(r.Err) {
			t.Errorf("never sent: %v", r.Err)
		}
		close(hold)
		synctest.Wait()
		if rs := f.Records(part); len(rs) != 1 || string(rs[0].Body) != "flying" {
			t.Errorf("stored: %v", rs)
		}
	})
}

func TestFakeLeadersMove(t *testing.T) {
	t.Parallel()
	f := mqtest.NewFake(mqtest.FakeConfig{})
	defer f.Close(t.Context())
	f.AddTopic("t", 3)
	f.SetLeader(part, "")
	if r := (<-produce(f, t.Context(), "x"))[0]; !errors.Is(r.Err, mq.NotLeader) {
		t.Errorf("without a leader: %v", r.Err)
	}
	f.SetLeader(part, "fake-3")
	if r := (<-produce(f, t.Context(), "x"))[0]; r.Err != nil {
		t.Errorf("with a new leader: %v", r.Err)
	}
	if ps, _ := f.Producer().Partitions(t.Context(), "t"); ps[0].Leader != "fake-3" || ps[1].Leader != "fake-2" {
		t.Errorf("leaders: %+v", ps)
	}
}

func TestFakeAssignmentsByHand(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := mqtest.NewFake(mqtest.FakeConfig{})
		defer f.Close(t.Context())
		f.AddTopic("t", 2)
		f.Manual("g")
		g, err := f.Group(t.Context(), mq.GroupConfig{Group: "g", Topics: []mq.Topic{"t"}, Member: "m"})
		if err != nil {
			t.Fatal(err)
		}
		p0, p1 := part, mq.PartitionID{Topic: "t", Index: 1}
		commit := func(epoch int64, p mq.PartitionID) error {
			return g.Commit(t.Context(), epoch, map[mq.PartitionID]mq.Commit{p: {Offset: 1}})[p]
		}

		e1 := f.Assign("g", "m", p0, p1)
		if a, _ := g.Next(t.Context()); a.Epoch != e1 || !cmp.Equal(a.Added, []mq.PartitionID{p0, p1}) {
			t.Fatalf("first: %+v", a)
		}
		e2 := f.Assign("g", "m", p1)
		a, _ := g.Next(t.Context())
		if !cmp.Equal(a.Revoked, []mq.PartitionID{p0}) || len(a.Owned) != 2 {
			t.Fatalf("revocation: %+v", a)
		}
		if err := commit(e2, p0); err != nil {
			t.Errorf("between revoked and done: %v", err)
		}
		g.Done(e2)
		if err := commit(e2, p0); !errors.Is(err, mq.Fenced) {
			t.Errorf("after done: %v", err)
		}
		e3 := f.Lose("g", "m", p1)
		if err := commit(e2, p1); !errors.Is(err, mq.Fenced) {
			t.Errorf("after the loss, before it is told: %v", err)
		}
		if a, _ := g.Next(t.Context()); a.Epoch != e3 || !cmp.Equal(a.Lost, []mq.PartitionID{p1}) || len(a.Owned) != 0 {
			t.Fatalf("loss: %+v", a)
		}
		f.Fail("g", "m", mq.Errorf(mq.Fenced, "scripted"))
		if _, err := g.Next(t.Context()); !errors.Is(err, mq.Fenced) {
			t.Errorf("scripted end: %v", err)
		}
	})
}
