// Package cluster drives the real binary against real Kafka clusters: several nodes, one of them killed; old versions;
// native neighbours on Kafka's own Java client. Every message is counted.
package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"
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

// lines makes count messages of which key i has the bodies 0, 1, 2 and so on.
func lines(count, keys int) string {
	var b strings.Builder
	for i := range count {
		fmt.Fprintf(&b, "k%d:%d\n", i%keys, i/keys)
	}
	return b.String()
}

func places(rs []harness.Stored) []string {
	var out []string
	for i := range rs {
		if rs[i].Status == "stored" {
			out = append(out, rs[i].Partition+"@"+rs[i].Offset)
		}
	}
	return out
}

func delivered(ms []harness.Message) []string {
	out := make([]string, len(ms))
	for i := range ms {
		out[i] = ms[i].Partition + "@" + ms[i].Offset
	}
	return out
}

// trio starts three nodes on a Kafka cluster called k: the first one has all roles, the others move messages.
func trio(t *testing.T, bootstrap string) [3]*harness.Node {
	t.Helper()
	var ns [3]*harness.Node
	ns[0] = harness.Start(t, "--dev", "--set", "embedded.enabled=false")
	for i := range 2 {
		ns[i+1] = harness.Start(t, "--dev", "--role", "producer,consumer", "--control", ns[0].GRPC)
	}
	ns[0].Must(within(t, 30*time.Second), "", "cluster", "add", "k", "--kind", "kafka", "--bootstrap", bootstrap)
	return ns
}

func servers(ns ...*harness.Node) string {
	out := make([]string, len(ns))
	for i, n := range ns {
		out[i] = n.GRPC
	}
	return strings.Join(out, ",")
}

func TestThreeNodesOneKilledLoseNothing(t *testing.T) {
	bootstrap := harness.Require(t, "kafka", "SLUICE_TEST_KAFKA")
	ctx := within(t, 4*time.Minute)
	ns := trio(t, bootstrap)
	topic := unique("trio")
	ns[0].Must(ctx, "", "topic", "create", topic, "--cluster", "k", "--partitions", "6")

	const count, keys = 30_000, 50
	all := servers(ns[1], ns[0], ns[2])
	published := make(chan harness.Result, 1)
	go func() {
		published <- harness.Run(ctx, t, lines(count, keys), "pub", topic, "--key-delim", ":", "-o", "json", "--timeout", "60s", "--server", all)
	}()
	consumed := make(chan harness.Result, 1)
	go func() {
		consumed <- harness.Run(ctx, t, "", "sub", topic, "--group", topic, "--order", "key", "--timeout", "25s", "-o", "json", "--server", all)
	}()
	waitStored(t, ctx, ns[0], topic, 5000)
	ns[1].Kill()

	p := <-published
	results := harness.Decode[harness.Stored](t, p.Lines())
	t.Logf("published over a killed node: %d stored, %d maybe sent, %d not sent, exit %d",
		len(harness.ByStatus(results, "stored")), len(harness.ByStatus(results, "maybe_sent")), len(harness.ByStatus(results, "not_sent")), p.Code)
	if len(results) != count {
		t.Fatalf("%d results for %d messages\n%s", len(results), count, p.Err)
	}
	messages := harness.Decode[harness.Message](t, (<-consumed).Lines())
	var ids []string
	for i := range results {
		ids = append(ids, results[i].ID)
	}
	c := harness.Count(harness.ByStatus(results, "stored"), ids, harness.IDs(messages))
	t.Log(c)
	c.NoneLost(t)
	firstsInOrder(t, messages)
}

// firstsInOrder holds the first delivery of each body of a key against the order of publishing.
func firstsInOrder(t *testing.T, ms []harness.Message) {
	t.Helper()
	highest := map[string]int{}
	seen := map[string]bool{}
	for _, m := range ms {
		if seen[m.Key+"/"+m.Body] {
			continue
		}
		seen[m.Key+"/"+m.Body] = true
		n, err := strconv.Atoi(m.Body)
		if err != nil {
			t.Fatal(err)
		}
		if last, ok := highest[m.Key]; ok && n < last {
			t.Errorf("key %s: %d came for the first time after %d", m.Key, n, last)
		}
		highest[m.Key] = max(highest[m.Key], n)
	}
}

func waitStored(t *testing.T, ctx context.Context, n *harness.Node, topic string, least int) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		sum := 0
		for _, m := range endOffset.FindAllStringSubmatch(n.Run(ctx, "", "topic", "describe", topic, "-o", "json").Out, -1) {
			v, err := strconv.Atoi(m[1])
			if err != nil {
				t.Fatal(err)
			}
			sum += v
		}
		if sum >= least {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("topic %s has %d messages, waited in vain for %d", topic, sum, least)
		}
	}
}

func TestEachVersionDeliversEachMessageOnce(t *testing.T) {
	versions := os.Getenv("SLUICE_TEST_KAFKA_OLD")
	if current := os.Getenv("SLUICE_TEST_KAFKA"); current != "" {
		versions = strings.TrimPrefix(versions+",current="+current, ",")
	}
	if versions == "" {
		harness.Require(t, "kafka-old", "SLUICE_TEST_KAFKA_OLD")
	}
	for entry := range strings.SplitSeq(versions, ",") {
		version, bootstrap, ok := strings.Cut(entry, "=")
		if !ok {
			t.Fatalf("SLUICE_TEST_KAFKA_OLD: %q is not VERSION=ADDRESS", entry)
		}
		t.Run(version, func(t *testing.T) {
			ctx := within(t, 2*time.Minute)
			n := harness.Start(t, "--dev", "--set", "embedded.enabled=false")
			n.Must(ctx, "", "cluster", "add", "k", "--kind", "kafka", "--bootstrap", bootstrap)
			topic := unique("once")
			n.Must(ctx, "", "topic", "create", topic, "--cluster", "k", "--partitions", "3")
			const count = 10_000
			stored := harness.Decode[harness.Stored](t, n.Must(ctx, lines(count, 10), "pub", topic, "--key-delim", ":", "-o", "json", "--timeout", "60s").Lines())
			r := n.Must(ctx, "", "sub", topic, "--group", topic, "--order", "key", "--count", strconv.Itoa(count), "--timeout", "60s", "-o", "json")
			messages := harness.Decode[harness.Message](t, r.Lines())
			c := harness.Count(places(stored), nil, delivered(messages))
			t.Logf("Kafka %s: %s", version, c)
			c.Exactly(t)
			firstsInOrder(t, messages)

			// A rejected message reaches the dead letters, on brokers without headers too.
			n.Must(ctx, "", "pub", topic, "bad", "--key", "bad")
			n.Run(ctx, "", "sub", topic, "--group", topic, "--ack", "reject", "--timeout", "3s", "-o", "json")
			if dead := n.Must(ctx, "", "dlq", "list", topic, "-o", "json").Lines(); len(dead) != 1 || !strings.Contains(dead[0], "bad") {
				t.Errorf("dead letters: %q, want the rejected message", dead)
			}
		})
	}
}
