package control

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/mq/mqtest"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

func subscribed(t *testing.T, cfg Config) *fixture {
	t.Helper()
	f := setUp(t, cfg, "")
	must[*TopicInfo](t)(f.CreateTopic(t.Context(), admin, TopicSpec{Name: "t", Partitions: 2}, false))
	must[*snapshot.Snapshot](t)(f.EnsureSubscription(t.Context(), "g", map[string]snapshot.Settings{"t": {Order: snapshot.OrderKey}}))
	return f
}

func TestSubscriptions(t *testing.T) {
	t.Parallel()
	f := subscribed(t, Config{})
	must[*TopicInfo](t)(f.CreateTopic(t.Context(), admin, TopicSpec{Name: "wide", Partitions: 6}, false))
	ensure := func(s snapshot.Settings, topics ...string) (*snapshot.Snapshot, error) {
		subs := map[string]snapshot.Settings{}
		for _, topic := range topics {
			subs[topic] = s
		}
		return f.EnsureSubscription(t.Context(), "g", subs)
	}
	version := f.snaps.Current().Version
	must[*snapshot.Snapshot](t)(ensure(snapshot.Settings{}, "t"))                                          // inherits
	must[*snapshot.Snapshot](t)(ensure(snapshot.Settings{Order: snapshot.OrderKey, MaxAttempts: 16}, "t")) // states what holds, defaults included
	if f.snaps.Current().Version != version {
		t.Error("a check wrote something")
	}
	for what, s := range map[string]snapshot.Settings{
		"order": {Order: snapshot.OrderNone}, "start": {Start: "latest"}, "max_attempts": {MaxAttempts: 3}, "takeover": {Takeover: "wait_lease"}, "run": {Run: 2}, "drain": {Drain: time.Second},
	} {
		_, err := ensure(s, "t")
		wantReason(t, err, fault.SubscriptionConflict)
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("the error does not name %s: %v", what, err)
		}
	}
	_, err := ensure(snapshot.Settings{}, "nope")
	wantReason(t, err, fault.TopicNotFound)
	_, err = ensure(snapshot.Settings{Start: "tomorrow"}, "t")
	wantReason(t, err, fault.InvalidArgument)
	_, err = ensure(snapshot.Settings{BackoffMin: time.Hour}, "t")
	wantReason(t, err, fault.InvalidArgument) // longer than the default maximum

	width := func(name mq.Topic) int {
		ds, err := f.embedded().Admin().Topics(t.Context(), name)
		if err != nil || len(ds) != 1 {
			t.Fatalf("topic %s: %v", name, err)
		}
		return len(ds[0].Partitions)
	}
	if width("g.retry") != 2 || width("g.dlq") != 2 {
		t.Error("retry and dead-letter topics are not as wide as the topic")
	}
	snap := must[*snapshot.Snapshot](t)(ensure(snapshot.Settings{}, "wide", "t"))
	if len(snap.Groups["g"].Subscriptions) != 2 || snap.Groups["g"].Subscriptions["t"].Order != snapshot.OrderKey {
		t.Errorf("group: %+v", snap.Groups["g"])
	}
	if width("g.retry") != 6 || width("g.dlq") != 6 {
		t.Error("retry and dead-letter topics were not widened")
	}
}

func TestSubscribingNeedsTheCluster(t *testing.T) {
	t.Parallel()
	f := subscribed(t, Config{})
	f.embedded().OnAdmin(func(string) error { return mq.Errorf(mq.Auth, "not authorized") })
	_, err := f.EnsureSubscription(t.Context(), "other", map[string]snapshot.Settings{"t": {}})
	wantReason(t, err, fault.ClusterAuth)
	if f.snaps.Current().Groups["other"] != nil {
		t.Error("a group without its topics was stored")
	}
	if _, err := f.EnsureSubscription(t.Context(), "g", map[string]snapshot.Settings{"t": {}}); err != nil {
		t.Errorf("a known group asks the cluster: %v", err)
	}
}

func TestSetGroup(t *testing.T) {
	t.Parallel()
	f := subscribed(t, Config{})
	paused, nodes := true, 5
	info := must[*GroupInfo](t)(f.SetGroup(t.Context(), admin, "g", 0, GroupChange{Paused: &paused, Nodes: &nodes, Subscriptions: map[string]snapshot.Settings{"": {MaxAttempts: 3}}}, false))
	want := snapshot.Settings{Order: snapshot.OrderKey, MaxAttempts: 3}
	if !info.Group.Paused || info.Group.Nodes != 5 || info.Group.Subscriptions["t"] != want {
		t.Errorf("group: %+v", info.Group)
	}
	_, err := f.SetGroup(t.Context(), admin, "g", 1, GroupChange{}, false)
	wantReason(t, err, fault.Conflict)
	_, err = f.SetGroup(t.Context(), admin, "g", 0, GroupChange{Subscriptions: map[string]snapshot.Settings{"x": {}}}, false)
	wantReason(t, err, fault.InvalidArgument)
	_, err = f.SetGroup(t.Context(), admin, "x", 0, GroupChange{}, false)
	wantReason(t, err, fault.GroupNotFound)
	if !strings.Contains(f.log.String(), "action=\"group set\"") {
		t.Error("no audit line")
	}
}

func TestResetGroup(t *testing.T) {
	t.Parallel()
	f := subscribed(t, Config{ResetTimeout: 3 * time.Second})
	for i := range 20 {
		f.embedded().Append(mq.PartitionID{Topic: "t", Index: int32(i % 2)}, mq.Record{Body: fmt.Append(nil, i)})
	}
	reset := func(r ResetRequest, dry bool) []int64 {
		t.Helper()
		r.Group = "g"
		before, after, err := f.ResetGroup(t.Context(), admin, r, dry)
		if err != nil {
			t.Fatal(err)
		}
		var to []int64
		for i := range after {
			if before[i].Partition != after[i].Partition {
				t.Error("before and after do not belong together")
			}
			to = append(to, after[i].Committed)
		}
		return to
	}
	committed := func() map[int32]int64 {
		m := map[int32]int64{}
		for id, c := range f.embedded().Commits("g") {
			m[id.Index] = c.Offset
		}
		return m
	}
	if got := reset(ResetRequest{To: "latest"}, true); cmp.Diff([]int64{10, 10}, got) != "" || len(committed()) != 0 {
		t.Errorf("dry run: %v, stored %v", got, committed())
	}
	reset(ResetRequest{To: "latest"}, false)
	back := int64(-3)
	reset(ResetRequest{Topic: "t", Partition: "1", Shift: &back}, false)
	if d := cmp.Diff(map[int32]int64{0: 10, 1: 7}, committed()); d != "" {
		t.Errorf("after a shift: %s", d)
	}
	if got := reset(ResetRequest{To: "99"}, true); cmp.Diff([]int64{10, 10}, got) != "" {
		t.Errorf("beyond the end: %v", got)
	}
	for _, r := range []ResetRequest{{}, {To: "noon"}, {To: "latest", Shift: &back}, {To: "latest", Partition: "1"}, {To: "latest", Topic: "x"}} {
		r.Group = "g"
		_, _, err := f.ResetGroup(t.Context(), admin, r, false)
		wantReason(t, err, fault.InvalidArgument)
	}
	if f.snaps.Current().Groups["g"].Suspended {
		t.Error("the group stays suspended")
	}

	// A node of ours leaves when the snapshot says so; a native member makes it fail, with its name.
	ours := join(t, f.embedded(), "sluice-n1")
	left := make(chan error, 1)
	go func() {
		for {
			changed := f.snaps.Changed()
			if f.snaps.Current().Groups["g"].Suspended {
				left <- ours.Close(context.Background())
				return
			}
			select {
			case <-changed:
			case <-t.Context().Done():
				left <- t.Context().Err()
				return
			}
		}
	}()
	reset(ResetRequest{To: "earliest"}, false)
	if err := <-left; err != nil {
		t.Error(err)
	}
	if d := cmp.Diff(map[int32]int64{0: 0, 1: 0}, committed()); d != "" {
		t.Errorf("after a reset under load: %s", d)
	}
	native := join(t, f.embedded(), "sluice-java-7")
	_, _, err := f.ResetGroup(t.Context(), admin, ResetRequest{Group: "g", To: "latest"}, false)
	wantReason(t, err, fault.Conflict)
	if err == nil || !strings.Contains(err.Error(), "sluice-java-7") {
		t.Errorf("the native member is not named: %v", err)
	}
	if err := native.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func join(t *testing.T, d *mqtest.Fake, member string) mq.Group {
	t.Helper()
	g, err := d.Group(t.Context(), mq.GroupConfig{Group: "g", Topics: []mq.Topic{"t"}, Member: member})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	return g
}

func TestResetGivesUpOnMembersThatStay(t *testing.T) {
	t.Parallel()
	f := subscribed(t, Config{ResetTimeout: 300 * time.Millisecond})
	g := join(t, f.embedded(), "sluice-n1")
	_, _, err := f.ResetGroup(t.Context(), admin, ResetRequest{Group: "g", To: "latest"}, false)
	wantReason(t, err, fault.Unavailable)
	if f.snaps.Current().Groups["g"].Suspended {
		t.Error("the group stays suspended after a reset that gave up")
	}
	if err := g.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestSuspensionEndsWithARestart(t *testing.T) {
	t.Parallel()
	f := subscribed(t, Config{})
	if err := f.suspend(t.Context(), "g", true); err != nil {
		t.Fatal(err)
	}
	wantReason(t, f.suspend(t.Context(), "g", true), fault.Conflict)
	f.close()
	if setUp(t, Config{}, f.dir).snaps.Current().Groups["g"].Suspended {
		t.Error("a reset that a crash cut off suspends the group for ever")
	}
}

func dead(id string, offset int, origin mq.PartitionID) mq.Record {
	h := func(name, value string) mq.Header { return mq.Header{Name: name, Value: []byte(value)} }
	return mq.Record{Key: []byte("k"), Body: []byte("body-" + id), Headers: []mq.Header{
		h("own", "x"), h(mq.HeaderID, id), h(mq.HeaderAttempt, "16"), h(mq.HeaderCause, "boom"), h(mq.HeaderOriginTopic, "t"),
		h(mq.HeaderOriginCluster, EmbeddedCluster), h(mq.HeaderOriginPartition, origin.String()), h(mq.HeaderOriginOffset, fmt.Sprint(offset)),
	}}
}

func TestDeadLetters(t *testing.T) {
	t.Parallel()
	f := subscribed(t, Config{})
	box, origin := mq.PartitionID{Topic: "g.dlq", Index: 0}, mq.PartitionID{Topic: "t", Index: 1}
	for i := range 4 {
		f.embedded().Append(box, dead(fmt.Sprint("m", i), 100+i, origin))
	}
	list := func() (ids []string) {
		t.Helper()
		err := f.ListDeadLetters(t.Context(), LetterQuery{Group: "g"}, func(l *DeadLetter) error {
			if l.Cause != "boom" || l.OriginTopic != "t" || l.OriginPartition != "1" || l.Attempts != 16 || l.OriginOffset < 100 {
				t.Errorf("letter: %+v", l)
			}
			ids = append(ids, l.Message.ID)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return ids
	}
	if got := list(); len(got) != 4 {
		t.Fatalf("letters: %v", got)
	}
	one := int64(2)
	redeliver := func(r RedeliverRequest, dry bool) (uint64, []Failed) {
		t.Helper()
		r.Group = "g"
		n, failed, err := f.RedeliverDeadLetters(t.Context(), admin, r, dry)
		if err != nil {
			t.Fatal(err)
		}
		return n, failed
	}
	if n, _ := redeliver(RedeliverRequest{All: true}, true); n != 4 || len(f.embedded().Records(origin)) != 0 {
		t.Error("a dry run published something")
	}
	if n, _ := redeliver(RedeliverRequest{Partition: "0", Offset: &one}, false); n != 1 {
		t.Errorf("one: %d", n)
	}
	want := mq.Record{Key: []byte("k"), Body: []byte("body-m2"), Headers: []mq.Header{{Name: "own", Value: []byte("x")}, {Name: mq.HeaderID, Value: []byte("m2")}}}
	got := f.embedded().Records(origin)
	if len(got) != 1 {
		t.Fatalf("records: %v", got)
	}
	got[0].Timestamp, got[0].Offset = time.Time{}, 0
	if d := cmp.Diff(want, got[0]); d != "" {
		t.Errorf("redelivered (-want +got): %s", d)
	}

	// The second of all fails: it stays a dead letter, and so does what stands behind it.
	f.embedded().OnProduce(func(a mqtest.Attempt) mqtest.Outcome {
		if string(a.Records[0].Body) == "body-m1" {
			return mqtest.Refuse(mq.TooLarge)
		}
		return mqtest.Outcome{}
	})
	n, failed := redeliver(RedeliverRequest{All: true}, false)
	if n != 3 || len(failed) != 1 || failed[0].ID != "m1" || !errors.Is(failed[0].Err, mq.TooLarge) {
		t.Errorf("%d redelivered, failed %+v", n, failed)
	}
	if d := cmp.Diff([]string{"m1", "m2", "m3"}, list()); d != "" {
		t.Errorf("letters left: %s", d)
	}
	purged := must[uint64](t)(f.PurgeDeadLetters(t.Context(), admin, "g", false))
	if purged != 3 || len(list()) != 0 {
		t.Errorf("purged %d, left %v", purged, list())
	}
	_, _, err := f.RedeliverDeadLetters(t.Context(), admin, RedeliverRequest{Group: "g", Partition: "0", Offset: &one}, false)
	wantReason(t, err, fault.InvalidArgument)
	_, _, err = f.RedeliverDeadLetters(t.Context(), admin, RedeliverRequest{Group: "g", All: true, ToTopic: "x"}, false)
	wantReason(t, err, fault.TopicNotFound)
}

func TestGroupPositions(t *testing.T) {
	t.Parallel()
	f := subscribed(t, Config{})
	p0 := mq.PartitionID{Topic: "t", Index: 0}
	for range 10 {
		f.embedded().Append(p0, mq.Record{})
	}
	f.embedded().Trim(p0, 2)
	info := must[*GroupInfo](t)(f.DescribeGroup(t.Context(), "g"))
	if info.Lag != 8 || info.Positions[0].Committed != -1 {
		t.Errorf("without a position: %+v, lag %d", info.Positions, info.Lag)
	}
	if err := f.embedded().Admin().SetGroupOffsets(t.Context(), "g", map[mq.PartitionID]mq.Commit{p0: {Offset: 7}}); err != nil {
		t.Fatal(err)
	}
	if info = must[*GroupInfo](t)(f.DescribeGroup(t.Context(), "g")); info.Lag != 3 {
		t.Errorf("lag %d, want 3: %+v", info.Lag, info.Positions)
	}
	if err := f.embedded().Admin().SetGroupOffsets(t.Context(), "native", map[mq.PartitionID]mq.Commit{p0: {Offset: 9}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the native group is listed", func() bool {
		infos, _, err := f.ListGroups(t.Context(), true, "", 0, "")
		return err == nil && len(infos) == 2 && infos[1].Native
	})
	if info = must[*GroupInfo](t)(f.DescribeGroup(t.Context(), "native")); !info.Native || info.Lag != 1 {
		t.Errorf("native: %+v", info)
	}
	_, err := f.DescribeGroup(t.Context(), "nobody")
	wantReason(t, err, fault.GroupNotFound)
}

func TestMurmur2AsKafkas(t *testing.T) {
	t.Parallel()
	// From org.apache.kafka.common.utils.UtilsTest.testMurmur2.
	for key, want := range map[string]int32{"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536, "a-little-bit-longer-string": -1486304829, "abc": 479470107} {
		if got := int32(murmur2([]byte(key))); got != want {
			t.Errorf("%q: %d, want %d", key, got, want)
		}
	}
}
