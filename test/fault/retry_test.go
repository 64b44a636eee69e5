package fault

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluice-mq/sluice/test/harness"
)

// single is one node on the cluster, where delays of more than a second are parked.
func single(t *testing.T, b *brokers) *harness.Node {
	t.Helper()
	n := harness.Start(t, "--dev", "--set", "embedded.enabled=false", "--set", "consume.park_after=1s")
	n.Must(within(t, 30*time.Second), "", "cluster", "add", "k", "--kind", "kafka", "--bootstrap", b.bootstrap)
	return n
}

// group makes a group that gives up after three attempts with short pauses.
func group(t *testing.T, n *harness.Node, topic string) string {
	t.Helper()
	ctx := within(t, 30*time.Second)
	n.Must(ctx, "", "sub", topic, "--group", topic, "--timeout", "100ms") // the first subscription makes it
	n.Must(ctx, "", "group", "set", topic, "--max-attempts", "3", "--backoff-min", "50ms", "--backoff-max", "200ms")
	return topic
}

// dead is an element of `sluice dlq list -o json`.
type dead struct {
	Message struct {
		ID, Topic, Partition, Offset, Body string
	}
	Cause           string
	OriginTopic     string `json:"origin_topic"`
	OriginPartition string `json:"origin_partition"`
	OriginOffset    string `json:"origin_offset"`
	Attempts        int
}

func deadLetters(t *testing.T, n *harness.Node, group string) map[string]dead {
	t.Helper()
	r := n.Must(within(t, 30*time.Second), "", "dlq", "list", group, "-o", "json")
	var ds []dead
	if err := json.Unmarshal([]byte(r.Out), &ds); err != nil {
		t.Fatalf("dlq list: %v\n%s", err, r.Out)
	}
	out := map[string]dead{}
	for _, d := range ds {
		if _, twice := out[d.Message.ID]; twice {
			t.Errorf("message %s is in the dead letters twice", d.Message.ID)
		}
		out[d.Message.ID] = d
	}
	return out
}

func TestReleasedMessagesEndInTheDeadLetters(t *testing.T) {
	n := single(t, kafka(t))
	name := topic(t, n, "release", 2)
	g := group(t, n, name)
	ctx := within(t, time.Minute)
	stored := harness.Decode[harness.Stored](t, n.Must(ctx, lines(30), "pub", name, "-o", "json").Lines())

	got := harness.Decode[harness.Message](t, n.Run(ctx, "", "sub", name, "--group", g, "--ack", "release", "--timeout", "3s", "-o", "json").Lines())
	attempts := map[string][]int{}
	for _, m := range got {
		attempts[m.ID] = append(attempts[m.ID], m.Attempt)
	}
	letters := deadLetters(t, n, g)
	for _, s := range stored {
		if diff := cmp.Diff([]int{1, 2, 3}, attempts[s.ID]); diff != "" {
			t.Errorf("attempts of %s (-want +got):\n%s", s.ID, diff)
		}
		d, ok := letters[s.ID]
		if !ok {
			t.Errorf("%s is not in the dead letters", s.ID)
			continue
		}
		if d.Attempts != 3 || d.Cause == "" || d.OriginTopic != name || d.OriginPartition != s.Partition || d.OriginOffset != s.Offset {
			t.Errorf("dead letter of %s at %s@%s: %+v", s.ID, s.Partition, s.Offset, d)
		}
	}
	if len(letters) != len(stored) {
		t.Errorf("%d dead letters, want %d", len(letters), len(stored))
	}
}

func TestExitCodesSettle(t *testing.T) {
	n := single(t, kafka(t))
	name := topic(t, n, "exec", 1)
	g := group(t, n, name)
	ctx := within(t, time.Minute)
	stored := harness.Decode[harness.Stored](t, n.Must(ctx, "0\n75\n100\n3\n", "pub", name, "-o", "json").Lines())
	r := n.Run(ctx, "", "sub", name, "--group", g, "--exec", "read code; exit $code", "--timeout", "3s", "-o", "json")
	seen := map[string]int{}
	for _, m := range harness.Decode[harness.Message](t, r.Lines()) {
		seen[m.Body]++
	}
	if diff := cmp.Diff(map[string]int{"0": 1, "75": 3, "100": 1, "3": 3}, seen); diff != "" {
		t.Errorf("deliveries by exit code (-want +got):\n%s", diff)
	}
	attempts := map[string]int{}
	for id, d := range deadLetters(t, n, g) {
		i := slices.IndexFunc(stored, func(s harness.Stored) bool { return s.ID == id })
		attempts[[]string{"0", "75", "100", "3"}[i]] = d.Attempts
	}
	if diff := cmp.Diff(map[string]int{"75": 3, "100": 1, "3": 3}, attempts); diff != "" {
		t.Errorf("attempts of dead letters by exit code (-want +got):\n%s", diff)
	}
}

func TestDeadLettersAreShownRedeliveredAndPurged(t *testing.T) {
	n := single(t, kafka(t))
	name := topic(t, n, "dlq", 2)
	g := group(t, n, name)
	ctx := within(t, time.Minute)
	n.Must(ctx, lines(20), "pub", name, "-o", "json")
	n.Must(ctx, "", "sub", name, "--group", g, "--ack", "reject", "--count", "20", "--timeout", "10s", "-o", "json")
	eventually(t, 10*time.Second, "all are dead letters", func() bool { return len(deadLetters(t, n, g)) == 20 })

	for id, d := range deadLetters(t, n, g) {
		var shown dead
		r := n.Must(ctx, "", "dlq", "show", g, "--partition", d.Message.Partition, "--offset", d.Message.Offset, "-o", "json")
		if err := json.Unmarshal([]byte(r.Out), &shown); err != nil || shown.Message.ID != id || shown.Cause != d.Cause || shown.Message.Body == "" {
			t.Errorf("dlq show of %s: %v\n%s", id, err, r.Out)
		}
		break
	}
	n.Must(ctx, "", "dlq", "redeliver", g, "--all")
	again := harness.Decode[harness.Message](t, n.Must(ctx, "", "sub", name, "--group", g, "--count", "20", "--timeout", "10s", "-o", "json").Lines())
	bodies := map[string]int{}
	for _, m := range again {
		bodies[m.Body]++
		if m.Topic != name {
			t.Errorf("a redelivered message is of topic %s, want its origin %s", m.Topic, name)
		}
	}
	if len(bodies) != 20 {
		t.Errorf("%d different bodies came again, want 20", len(bodies))
	}
	if r := n.Run(ctx, "", "dlq", "purge", g); r.Code == 0 {
		t.Error("purge without --yes and without a terminal did not ask")
	}
	n.Must(ctx, "", "dlq", "purge", g, "--yes")
	if left := deadLetters(t, n, g); len(left) != 0 {
		t.Errorf("%d dead letters are left after the purge", len(left))
	}
}

// post sends JSON to the node and decodes its answer.
func post(t *testing.T, n *harness.Node, path string, body, answer any) {
	t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(within(t, 30*time.Second), http.MethodPost, "http://"+strings.TrimPrefix(n.HTTP, "http://")+path, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("POST %s: %s", path, resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
		t.Fatal(err)
	}
}

func TestLongDelaysAreParked(t *testing.T) {
	b := kafka(t)
	n := single(t, b)
	name := topic(t, n, "park", 2)
	g := group(t, n, name)
	ctx := within(t, time.Minute)
	stored := harness.Decode[harness.Stored](t, n.Must(ctx, lines(10), "pub", name, "-o", "json").Lines())
	type pulled struct {
		Messages []struct {
			harness.Message
			Receipt string
		}
	}
	released := map[string]time.Time{}
	eventually(t, 20*time.Second, "all are released", func() bool {
		var p pulled
		post(t, n, "/v1/groups/"+g+"/pull", map[string]any{"topics": []string{name}, "max_messages": 100, "wait": "1s"}, &p)
		acks := []map[string]any{}
		for _, m := range p.Messages {
			acks = append(acks, map[string]any{"receipt": m.Receipt, "action": "release", "delay_ms": 3000})
			released[m.ID] = time.Now()
		}
		if len(acks) > 0 {
			var r struct{ Results []struct{ Status string } }
			post(t, n, "/v1/groups/"+g+"/ack", map[string]any{"acks": acks}, &r)
			for _, a := range r.Results {
				if a.Status != "ok" {
					t.Errorf("release: %s", a.Status)
				}
			}
		}
		return len(released) == len(stored)
	})
	eventually(t, 10*time.Second, "copies are in the retry topic", func() bool { return len(scan(t, b, g+".retry").places) == len(stored) })
	for _, r := range scan(t, b, g+".retry").native {
		if len(r.Value) == 0 || !hasHeader(r, "sluice-attempt") {
			t.Errorf("parked copy %d@%d has headers %v and a body of %d bytes", r.Partition, r.Offset, r.Headers, len(r.Value))
		}
	}
	// The originals are done: nobody waits for them.
	awaitCommitted(t, b, g, name)
	got := map[string]bool{}
	eventually(t, 20*time.Second, "all came again when due", func() bool {
		var p pulled
		post(t, n, "/v1/groups/"+g+"/pull", map[string]any{"topics": []string{name}, "max_messages": 100, "wait": "1s"}, &p)
		acks := []map[string]any{}
		for _, m := range p.Messages {
			if waited := time.Since(released[m.ID]); m.Attempt != 2 || m.Topic != name || waited < 2900*time.Millisecond {
				t.Errorf("%s came again as attempt %d of topic %s after %v", m.ID, m.Attempt, m.Topic, waited)
			}
			got[m.ID] = true
			acks = append(acks, map[string]any{"receipt": m.Receipt, "action": "accept"})
		}
		if len(acks) > 0 {
			var r any
			post(t, n, "/v1/groups/"+g+"/ack", map[string]any{"acks": acks}, &r)
		}
		return len(got) == len(stored)
	})
	awaitCommitted(t, b, g, g+".retry")
}

func hasHeader(r *kgo.Record, name string) bool {
	return slices.ContainsFunc(r.Headers, func(h kgo.RecordHeader) bool { return h.Key == name })
}

func TestGroupsArePausedResumedAndResetUnderASubscriber(t *testing.T) {
	b := kafka(t)
	n := single(t, b)
	l := newLoad(t, topic(t, n, "reset", 2))
	l.consume(n.GRPC, l.topic, 0)
	ctx := within(t, 90*time.Second)
	publish := func(count int) {
		var in strings.Builder
		for i := range count {
			fmt.Fprintf(&in, "k:%d\n", i)
		}
		n.Must(ctx, in.String(), "pub", l.topic, "--key-delim", ":", "-o", "json")
	}
	deliveries := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.in)
	}
	publish(100)
	eventually(t, 20*time.Second, "the first hundred came", func() bool { return deliveries() == 100 })
	awaitCommitted(t, b, l.topic, l.topic)

	n.Must(ctx, "", "group", "pause", l.topic)
	eventually(t, 10*time.Second, "the pause is known", func() bool {
		return strings.Contains(n.Must(ctx, "", "group", "describe", l.topic, "-o", "json").Out, `"paused":true`)
	})
	pause(ctx, 500*time.Millisecond)
	publish(100)
	if pause(ctx, 2*time.Second); deliveries() != 100 {
		t.Errorf("a paused group got %d messages", deliveries()-100)
	}
	n.Must(ctx, "", "group", "resume", l.topic)
	eventually(t, 20*time.Second, "the second hundred came", func() bool { return deliveries() == 200 })
	awaitCommitted(t, b, l.topic, l.topic)

	n.Must(ctx, "", "group", "reset", l.topic, "--to", "earliest", "--yes")
	eventually(t, 30*time.Second, "all came again", func() bool { return deliveries() == 400 })
	awaitCommitted(t, b, l.topic, l.topic)
	// One partition has all, as there is one key.
	n.Must(ctx, "", "group", "reset", l.topic, "--shift", "-10", "--topic", l.topic, "--partition", busiest(t, b, l.topic), "--yes")
	eventually(t, 30*time.Second, "the last ten came again", func() bool { return deliveries() == 410 })
	awaitCommitted(t, b, l.topic, l.topic)
	l.quit()
	if n := deliveries(); n != 410 {
		t.Errorf("%d deliveries, want 410", n)
	}
	if errs := l.settleErrors(); len(errs) > 0 {
		t.Errorf("accepts not recorded: %v", errs)
	}
}

// busiest is the partition with most records.
func busiest(t *testing.T, b *brokers, topic string) string {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(seeds(b)...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	best := kadm.ListedOffset{Offset: -1}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > best.Offset {
			best = o
		}
	})
	return strconv.Itoa(int(best.Partition))
}

func lines(count int) string {
	var b strings.Builder
	for i := range count {
		fmt.Fprintln(&b, i)
	}
	return b.String()
}
