// Package e2e drives the real binary on its embedded store, with its own command line and with plain HTTP.
package e2e

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mq/sluice/test/harness"
)

func numbers(from, to int) string {
	var b strings.Builder
	for i := from; i <= to; i++ {
		b.WriteString(strconv.Itoa(i))
		b.WriteByte('\n')
	}
	return b.String()
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestQuickStartDeliversEachMessageOnce(t *testing.T) {
	t.Parallel()
	const count = 100_000
	n := harness.Start(t, "--dev")
	ctx := within(t, 3*time.Minute)

	start := time.Now()
	stored := harness.Decode[harness.Stored](t, n.Must(ctx, numbers(1, count), "pub", "demo", "-o", "json").Lines())
	published := time.Since(start)
	if got := len(harness.ByStatus(stored, "stored")); got != count {
		t.Fatalf("%d of %d are stored", got, count)
	}
	start = time.Now()
	got := harness.Decode[harness.Message](t, n.Must(ctx, "", "sub", "demo", "--group", "g", "--count", strconv.Itoa(count), "--timeout", "60s", "-o", "json").Lines())
	t.Logf("published %d in %v, consumed in %v", count, published.Round(time.Millisecond), time.Since(start).Round(time.Millisecond))
	harness.Count(harness.ByStatus(stored, "stored"), nil, harness.IDs(got)).Exactly(t)
	bodies := map[string]bool{}
	for _, m := range got {
		bodies[m.Body] = true
	}
	for i := 1; i <= count; i++ {
		if !bodies[strconv.Itoa(i)] {
			t.Fatalf("no message has the body %d", i)
		}
	}
	if code := n.Stop(); code != 0 {
		t.Errorf("exit %d after SIGTERM, want 0", code)
	}
}

func TestKilledServerLosesNothingStored(t *testing.T) {
	t.Parallel()
	const count = 60_000
	n := harness.Start(t, "--dev")
	ctx := within(t, 5*time.Minute)
	n.Must(ctx, "warm\n", "pub", "demo", "-o", "json")

	// Killed while publishing: the client goes on against the restarted server.
	type outcome struct{ r harness.Result }
	published := make(chan outcome, 1)
	go func() {
		published <- outcome{n.Run(ctx, numbers(1, count), "pub", "demo", "-o", "json", "--timeout", "60s")}
	}()
	waitUntil(t, ctx, "messages are stored", func() bool { return endOffsets(t, ctx, n, "demo") > 2000 })
	n.Kill()
	n.Start()
	p := <-published
	results := harness.Decode[harness.Stored](t, p.r.Lines())
	stored := harness.ByStatus(results, "stored")
	if p.r.Code != 0 && len(stored) == count {
		t.Errorf("exit %d although all are stored", p.r.Code)
	}
	t.Logf("publish over a kill: %d stored, %d maybe sent, %d not sent, %d lines",
		len(stored), len(harness.ByStatus(results, "maybe_sent")), len(harness.ByStatus(results, "not_sent")), len(results))
	if len(results) != count {
		t.Errorf("%d results for %d messages", len(results), count)
	}

	// Killed while consuming: what one subscriber printed and accepted, and what the next one gets, cover all.
	consumed := make(chan harness.Result, 1)
	go func() {
		consumed <- n.Run(ctx, "", "sub", "demo", "--group", "g", "--count", strconv.Itoa(len(stored)), "--timeout", "20s", "-o", "json")
	}()
	waitUntil(t, ctx, "something is consumed", func() bool { return committed(t, ctx, n, "g") > 500 })
	n.Kill()
	n.Start()
	first := <-consumed
	got := harness.IDs(harness.Decode[harness.Message](t, first.Lines()))
	second := n.Run(ctx, "", "sub", "demo", "--group", "g", "--timeout", "5s", "-o", "json")
	got = append(got, harness.IDs(harness.Decode[harness.Message](t, second.Lines()))...)
	maybe := append(harness.ByStatus(results, "maybe_sent", "not_sent"), warmID(got, results)...)
	c := harness.Count(stored, maybe, got)
	t.Log(c)
	c.NoneLost(t)
}

// warmID is the id of the message that made the topic.
func warmID(got []string, results []harness.Stored) []string {
	known := map[string]bool{}
	for i := range results {
		known[results[i].ID] = true
	}
	for _, id := range got {
		if !known[id] {
			return []string{id}
		}
	}
	return nil
}

func waitUntil(t *testing.T, ctx context.Context, what string, ok func() bool) {
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

func endOffsets(t *testing.T, ctx context.Context, n *harness.Node, topic string) int {
	t.Helper()
	r := n.Run(ctx, "", "topic", "describe", topic, "-o", "json")
	sum := 0
	for _, m := range endOffset.FindAllStringSubmatch(r.Out, -1) {
		v, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		sum += v
	}
	return sum
}

func committed(t *testing.T, ctx context.Context, n *harness.Node, group string) int {
	t.Helper()
	r := n.Run(ctx, "", "group", "describe", group, "--lag", "-o", "json")
	sum := 0
	for _, m := range committedOffset.FindAllStringSubmatch(r.Out, -1) {
		v, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		sum += v
	}
	return sum
}

func TestOrderedGroupsKeepTheOrderOfKeys(t *testing.T) {
	t.Parallel()
	n := harness.Start(t, "--dev")
	ctx := within(t, 2*time.Minute)
	var b strings.Builder
	const keys, each = 20, 500
	for i := range each {
		for k := range keys {
			fmt.Fprintf(&b, "k%d:%d\n", k, i)
		}
	}
	n.Must(ctx, b.String(), "pub", "orders", "--key-delim", ":", "-o", "json")
	for _, order := range []string{"key", "partition"} {
		r := n.Must(ctx, "", "sub", "orders", "--group", "by-"+order, "--order", order, "--count", strconv.Itoa(keys*each), "--timeout", "30s", "-o", "json")
		next := map[string]int{}
		for _, m := range harness.Decode[harness.Message](t, r.Lines()) {
			if m.Body != strconv.Itoa(next[m.Key]) {
				t.Fatalf("order %s: key %s has %s where %d was due", order, m.Key, m.Body, next[m.Key])
			}
			next[m.Key]++
		}
		if len(next) != keys {
			t.Errorf("order %s: %d keys came, want %d", order, len(next), keys)
		}
	}
}
