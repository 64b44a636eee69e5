// Package native has Kafka's own Java client as a neighbour: it writes what Sluice delivers, reads what Sluice wrote, and
// shares a consumer group with it.
package native

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-mq/sluice/test/harness"
)

func unique(name string) string {
	b := make([]byte, 4)
	_, _ = rand.Read(b) // never fails
	return name + "-" + hex.EncodeToString(b)
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// java is the class path of the newest Kafka that the broker scripts have installed.
func java(t *testing.T) string {
	t.Helper()
	home := os.Getenv("BROKERS_HOME")
	if home == "" {
		user, err := os.UserHomeDir()
		if err != nil {
			t.Fatal(err)
		}
		home = filepath.Join(user, ".cache", "sluice-brokers")
	}
	found, err := filepath.Glob(filepath.Join(home, "lib", "kafka-4.*"))
	if err != nil || len(found) == 0 {
		if strings.Contains(os.Getenv("SLUICE_TEST_REQUIRE"), "java") {
			t.Fatalf("no jars of Kafka 4.x under %s/lib; test/brokers/kafka.sh install 4.4.0 fetches them", home)
		}
		t.Skipf("no jars of Kafka 4.x under %s/lib", home)
	}
	return filepath.Join(found[len(found)-1], "*")
}

// record is a line of Neighbour.java.
type record struct {
	Partition int
	Offset    int64
	Key       *string
	Value     *string
	Headers   map[string]string
	Assigned  *int
	Revoked   *int
}

func (r *record) message() bool { return r.Assigned == nil && r.Revoked == nil }

func text(t *testing.T, b64 *string) string {
	t.Helper()
	if b64 == nil {
		return ""
	}
	b, err := base64.StdEncoding.DecodeString(*b64)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// neighbour is a running Java consumer.
type neighbour struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.Closer
	ended chan struct{}

	mu      sync.Mutex // guards records
	records []record
}

func consume(t *testing.T, bootstrap, topic, group string, properties ...string) *neighbour {
	t.Helper()
	args := append([]string{"-cp", java(t), "Neighbour.java", "consume", bootstrap, topic, group}, properties...)
	n := &neighbour{t: t, cmd: exec.Command("java", args...), ended: make(chan struct{})}
	in, err := n.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := n.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	n.stdin = in
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(n.ended)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 8<<20)
		for lines.Scan() {
			var r record
			if json.Unmarshal(lines.Bytes(), &r) != nil {
				continue // a line of a logger
			}
			n.mu.Lock()
			n.records = append(n.records, r)
			n.mu.Unlock()
		}
		_ = n.cmd.Wait() // the lines tell what happened
	}()
	t.Cleanup(n.stop)
	return n
}

// stop lets the consumer leave its group and waits for it.
func (n *neighbour) stop() {
	_ = n.stdin.Close() // closed before: fine
	select {
	case <-n.ended:
	case <-time.After(30 * time.Second):
		_ = n.cmd.Process.Kill()
		<-n.ended
		n.t.Error("the Java consumer did not end")
	}
}

func (n *neighbour) messages() []record {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []record
	for _, r := range n.records {
		if r.message() {
			out = append(out, r)
		}
	}
	return out
}

func (n *neighbour) assigned() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.records {
		if r.Assigned != nil && *r.Assigned > 0 {
			return true
		}
	}
	return false
}

func produce(t *testing.T, ctx context.Context, bootstrap, topic string, count, keys int, prefix string) {
	t.Helper()
	cmd := exec.CommandContext(ctx, "java", "-cp", java(t), "Neighbour.java", "produce", bootstrap, topic, strconv.Itoa(count), strconv.Itoa(keys), prefix)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("Java producer: %v\n%s", err, out)
	}
}

func wait(t *testing.T, ctx context.Context, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// sluice starts a node on a Kafka cluster with a new topic.
func sluice(t *testing.T, ctx context.Context, bootstrap string, partitions int) (*harness.Node, string) {
	t.Helper()
	n := harness.Start(t, "--dev", "--set", "embedded.enabled=false")
	n.Must(ctx, "", "cluster", "add", "k", "--kind", "kafka", "--bootstrap", bootstrap)
	topic := unique("native")
	n.Must(ctx, "", "topic", "create", topic, "--cluster", "k", "--partitions", strconv.Itoa(partitions))
	return n, topic
}

func TestJavaReadsWhatSluiceWrote(t *testing.T) {
	bootstrap := harness.Require(t, "kafka", "SLUICE_TEST_KAFKA")
	ctx := within(t, 2*time.Minute)
	n, topic := sluice(t, ctx, bootstrap, 3)
	var b strings.Builder
	const count = 1000
	for i := range count {
		fmt.Fprintf(&b, `{"key":"k%d","body":"b%d","headers":{"region":"eu"},"tag":"paid"}`+"\n", i%7, i)
	}
	stored := harness.Decode[harness.Stored](t, n.Must(ctx, b.String(), "pub", topic, "--json", "-o", "json").Lines())
	c := consume(t, bootstrap, topic, unique("reader"))
	wait(t, ctx, "Java has read all", func() bool { return len(c.messages()) >= count })
	at := map[string]string{}
	for _, s := range stored {
		at[s.Partition+"@"+s.Offset] = s.ID
	}
	for _, r := range c.messages() {
		place := fmt.Sprintf("%d@%d", r.Partition, r.Offset)
		id := r.Headers["sluice-id"]
		tag, region := r.Headers["sluice-tag"], r.Headers["region"]
		if text(t, &id) != at[place] || text(t, &tag) != "paid" || text(t, &region) != "eu" {
			t.Fatalf("at %s Java reads id %q tag %q region %q; stored there was %q", place, text(t, &id), text(t, &tag), text(t, &region), at[place])
		}
	}
}

func TestSluiceDeliversWhatJavaWrote(t *testing.T) {
	bootstrap := harness.Require(t, "kafka", "SLUICE_TEST_KAFKA")
	ctx := within(t, 2*time.Minute)
	n, topic := sluice(t, ctx, bootstrap, 3)
	const count = 1000
	produce(t, ctx, bootstrap, topic, count, 7, "x-")
	r := n.Must(ctx, "", "sub", topic, "--group", topic, "--order", "key", "--count", strconv.Itoa(count), "--timeout", "30s", "-o", "json")
	next := map[string]int{}
	for i, m := range harness.Decode[harness.Message](t, r.Lines()) {
		v, err := strconv.Atoi(strings.TrimPrefix(m.Body, "x-"))
		if err != nil || m.Key != "k"+strconv.Itoa(v%7) || v/7 != next[m.Key] {
			t.Fatalf("message %d: key %s body %s, the key's %d was due", i, m.Key, m.Body, next[m.Key])
		}
		if want := fmt.Sprintf("k/%s/%s/%s", topic, m.Partition, m.Offset); m.ID != want {
			t.Fatalf("a native message is called %s, want %s", m.ID, want)
		}
		next[m.Key]++
	}
}

func TestJavaAndSluiceShareAGroup(t *testing.T) {
	bootstrap := harness.Require(t, "kafka", "SLUICE_TEST_KAFKA")
	const assignors = "org.apache.kafka.clients.consumer."
	for _, assignor := range []string{"RangeAssignor", "RoundRobinAssignor", "StickyAssignor", "CooperativeStickyAssignor"} {
		t.Run(assignor, func(t *testing.T) {
			ctx := within(t, 3*time.Minute)
			n, topic := sluice(t, ctx, bootstrap, 6)
			c := consume(t, bootstrap, topic, topic, "partition.assignment.strategy="+assignors+assignor)
			wait(t, ctx, "Java has partitions", c.assigned)
			type end struct{ r harness.Result }
			ended := make(chan end, 1)
			go func() {
				ended <- end{n.Run(ctx, "", "sub", topic, "--group", topic, "--timeout", "15s", "-o", "json")}
			}()
			wait(t, ctx, "the group has two members", func() bool {
				return strings.Count(n.Run(ctx, "", "group", "describe", topic, "-o", "json").Out, `"client"`) >= 2
			})
			// Some while both are members, some around the moment when the native one leaves.
			const count = 3000
			first := harness.Decode[harness.Stored](t, n.Must(ctx, numbers(count), "pub", topic, "-o", "json").Lines())
			wait(t, ctx, "Java has work", func() bool { return len(c.messages()) > 0 })
			c.stop()
			second := harness.Decode[harness.Stored](t, n.Must(ctx, numbers(count), "pub", topic, "-o", "json").Lines())
			r := (<-ended).r
			var got []string
			ours := harness.Decode[harness.Message](t, r.Lines())
			for _, m := range ours {
				got = append(got, m.Partition+"@"+m.Offset)
			}
			theirs := c.messages()
			for _, m := range theirs {
				got = append(got, fmt.Sprintf("%d@%d", m.Partition, m.Offset))
			}
			var want []string
			for _, s := range append(first, second...) {
				want = append(want, s.Partition+"@"+s.Offset)
			}
			tally := harness.Count(want, nil, got)
			t.Logf("%s: Java %d, Sluice %d; %s", assignor, len(theirs), len(ours), tally)
			tally.NoneLost(t)
			if len(theirs) == 0 || len(ours) == 0 {
				t.Errorf("Java got %d and Sluice %d: both should get work", len(theirs), len(ours))
			}
			if r.Code == 2 {
				t.Errorf("sub: %s", r.Err)
			}
		})
	}
}

func TestGroupOfTheNewProtocolIsRefusedByName(t *testing.T) {
	bootstrap := harness.Require(t, "kafka", "SLUICE_TEST_KAFKA")
	ctx := within(t, time.Minute)
	n, topic := sluice(t, ctx, bootstrap, 2)
	c := consume(t, bootstrap, topic, topic, "group.protocol=consumer")
	wait(t, ctx, "Java has partitions", c.assigned)
	r := n.Run(ctx, "", "sub", topic, "--group", topic, "--timeout", "10s")
	if r.Code == 0 || !strings.Contains(r.Err, "consumer") {
		t.Errorf("exit %d, %q; want a refusal that names the protocol", r.Code, r.Err)
	}
}

func numbers(count int) string {
	var b strings.Builder
	for i := range count {
		fmt.Fprintln(&b, i)
	}
	return b.String()
}
