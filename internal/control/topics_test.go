package control

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

func TestOddNamesAllTheWay(t *testing.T) {
	t.Parallel()
	f := setUp(t, Config{}, "")
	for _, name := range odd {
		must[*TopicInfo](t)(f.CreateTopic(t.Context(), admin, TopicSpec{Name: name, Partitions: 2}, false))
		_, err := f.CreateTopic(t.Context(), admin, TopicSpec{Name: name}, false)
		wantReason(t, err, fault.AlreadyExists)
		must[*TopicInfo](t)(f.DescribeTopic(t.Context(), name))
		must[*snapshot.Snapshot](t)(f.EnsureSubscription(t.Context(), name, map[string]snapshot.Settings{name: {}}))
		if _, _, err := f.ResetGroup(t.Context(), admin, ResetRequest{Group: name, To: "earliest"}, false); err != nil {
			t.Errorf("reset %q: %v", name, err)
		}
		must[*GroupInfo](t)(f.DescribeGroup(t.Context(), name))
		if _, err := f.PurgeDeadLetters(t.Context(), admin, name, false); err != nil {
			t.Errorf("purge %q: %v", name, err)
		}
	}
	var listed []string
	for token := ""; ; {
		infos, next, err := f.ListTopics(t.Context(), "", "", 2, token)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range infos {
			listed = append(listed, i.Topic.Name)
		}
		if token = next; token == "" {
			break
		}
	}
	if d := cmp.Diff(slices.Sorted(slices.Values(odd)), listed); d != "" {
		t.Errorf("pages: %s", d)
	}
	for _, name := range odd {
		wantReason(t, f.DeleteTopic(t.Context(), admin, name, false, false), fault.Conflict) // subscribed
		if err := f.DeleteGroup(t.Context(), admin, name, false); err != nil {
			t.Errorf("delete group %q: %v", name, err)
		}
		if err := f.DeleteTopic(t.Context(), admin, name, true, false); err != nil {
			t.Errorf("delete topic %q: %v", name, err)
		}
	}
	for _, name := range []string{"", " a", "a\x00b", "a\nb", "\u202e", string([]byte{0xc0})} {
		_, err := f.CreateTopic(t.Context(), admin, TopicSpec{Name: name}, false)
		wantReason(t, err, fault.InvalidArgument)
	}
}

func TestEnsureTopicOnlyInDev(t *testing.T) {
	t.Parallel()
	_, err := setUp(t, Config{}, "").EnsureTopic(t.Context(), "t")
	wantReason(t, err, fault.TopicNotFound)
	f := setUp(t, Config{AutoCreate: true}, "")
	snap := must[*snapshot.Snapshot](t)(f.EnsureTopic(t.Context(), "t"))
	if h := snap.Topics["t"].Homes[0]; h.Cluster != EmbeddedCluster || h.Partitions != autoPartitions {
		t.Errorf("home: %+v", h)
	}
}

func TestAdopt(t *testing.T) {
	t.Parallel()
	f := setUp(t, Config{}, "")
	for _, n := range []mq.Topic{"orders", "bills", "__internal", "g.retry", "g.dlq"} {
		f.embedded().AddTopic(n, 3)
	}
	_, err := f.AdoptTopics(t.Context(), admin, "", []string{"nope"}, false, "", false)
	wantReason(t, err, fault.TopicNotFound)
	got := must[[]*TopicInfo](t)(f.AdoptTopics(t.Context(), admin, EmbeddedCluster, []string{"orders"}, false, "bestellungen", false))
	if got[0].Topic.Name != "bestellungen" || got[0].Topic.Homes[0].Topic != "orders" || got[0].PartitionCount != 3 {
		t.Errorf("adopted: %+v", got[0])
	}
	_, err = f.AdoptTopics(t.Context(), admin, EmbeddedCluster, []string{"orders"}, false, "again", false)
	wantReason(t, err, fault.AlreadyExists)
	must[*snapshot.Snapshot](t)(f.EnsureSubscription(t.Context(), "g", map[string]snapshot.Settings{"bestellungen": {}}))
	all := must[[]*TopicInfo](t)(f.AdoptTopics(t.Context(), admin, EmbeddedCluster, nil, true, "", false))
	if len(all) != 1 || all[0].Topic.Name != "bills" {
		t.Errorf("--all took %d topics", len(all))
	}
}

func TestSetTopic(t *testing.T) {
	t.Parallel()
	f := setUp(t, Config{}, "")
	info := must[*TopicInfo](t)(f.CreateTopic(t.Context(), admin, TopicSpec{Name: "t", Partitions: 2, Retention: time.Hour}, false))
	rate := int64(100)
	info = must[*TopicInfo](t)(f.SetTopic(t.Context(), admin, "t", info.Topic.Version, TopicChange{Partitions: 4, Owner: "team", RateMessages: &rate, Config: map[string]string{"retention.ms": "5000"}}, false))
	if info.Topic.Homes[0].Partitions != 4 || info.Topic.Owner != "team" || info.Topic.RateMessages != 100 {
		t.Errorf("set: %+v", info.Topic)
	}
	if d := must[*TopicInfo](t)(f.DescribeTopic(t.Context(), "t")); d.PartitionCount != 4 || d.Config["retention.ms"] != "5000" {
		t.Errorf("described: %+v", d)
	}
	_, err := f.SetTopic(t.Context(), admin, "t", 1, TopicChange{Partitions: 8}, false)
	wantReason(t, err, fault.Conflict)
	if d := must[*TopicInfo](t)(f.DescribeTopic(t.Context(), "t")); d.PartitionCount != 4 {
		t.Error("a conflicting write changed the cluster")
	}
	_, err = f.SetTopic(t.Context(), admin, "t", 0, TopicChange{Partitions: 3}, false)
	wantReason(t, err, fault.InvalidArgument)
	_, err = f.SetTopic(t.Context(), admin, "t", 0, TopicChange{Order: "strict", Partitions: 8}, false)
	wantReason(t, err, fault.InvalidArgument)
}

func TestReadMessages(t *testing.T) {
	t.Parallel()
	f := setUp(t, Config{}, "")
	must[*TopicInfo](t)(f.CreateTopic(t.Context(), admin, TopicSpec{Name: "t", Partitions: 2}, false))
	for i := range 20 {
		p := mq.PartitionID{Topic: "t", Index: int32(i % 2)}
		f.embedded().Append(p, mq.Record{Key: fmt.Append(nil, "k", i%5), Body: fmt.Append(nil, i), Headers: []mq.Header{{Name: mq.HeaderID, Value: fmt.Append(nil, "id-", i)}, {Name: "own", Value: []byte("x")}}})
	}
	read := func(q MessageQuery) (bodies []string, incomplete bool) {
		t.Helper()
		q.Topic = "t"
		incomplete, err := f.ReadMessages(t.Context(), q, func(m *Message) error {
			if len(m.Record.Headers) != 1 || m.Record.Headers[0].Name != "own" {
				t.Errorf("headers: %+v", m.Record.Headers)
			}
			bodies = append(bodies, string(m.Record.Body))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return bodies, incomplete
	}
	if all, more := read(MessageQuery{}); len(all) != 20 || more {
		t.Errorf("all: %v, %v", all, more)
	}
	if got, _ := read(MessageQuery{Partition: "1", From: "8"}); cmp.Diff([]string{"17", "19"}, got) != "" {
		t.Errorf("from an offset: %v", got)
	}
	if got, _ := read(MessageQuery{From: "latest", Count: 4}); cmp.Diff([]string{"16", "18", "17", "19"}, got) != "" {
		t.Errorf("the last four: %v", got)
	}
	if got, _ := read(MessageQuery{ID: "id-7"}); cmp.Diff([]string{"7"}, got) != "" {
		t.Errorf("by id: %v", got)
	}
	if got, _ := read(MessageQuery{Key: []byte("k3")}); len(got) != 4 {
		t.Errorf("by key: %v", got)
	}
	if got, more := read(MessageQuery{ID: "id-19", Budget: 5}); len(got) != 0 || !more {
		t.Errorf("over budget: %v, %v", got, more)
	}
	if got, _ := read(MessageQuery{Count: 3}); len(got) != 3 {
		t.Errorf("three: %v", got)
	}
	for _, q := range []MessageQuery{{Topic: "t", From: "5"}, {Topic: "t", From: "noon"}, {Topic: "t", Count: 1 << 20}} {
		_, err := f.ReadMessages(t.Context(), q, nil)
		wantReason(t, err, fault.InvalidArgument)
	}
	_, err := f.ReadMessages(t.Context(), MessageQuery{Topic: "t", Partition: "9"}, nil)
	wantReason(t, err, fault.PartitionNotFound)
	_, err = f.ReadMessages(t.Context(), MessageQuery{Topic: "x"}, nil)
	wantReason(t, err, fault.TopicNotFound)
}
