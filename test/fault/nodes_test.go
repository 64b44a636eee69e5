package fault

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-mq/sluice/test/harness"
)

const (
	session     = 6 * time.Second        // of a node in the brokers' groups, by default
	commitEvery = 200 * time.Millisecond // from an accept to its commit, by default
	slack       = 300 * time.Millisecond // for the commit itself, replicated by three brokers
)

// lanesOf are the partitions of a topic that each node has, by the node's name.
func lanesOf(t *testing.T, n *harness.Node, group, topic string) map[string][]string {
	t.Helper()
	r := n.Run(within(t, 20*time.Second), "", "group", "describe", group, "-o", "json")
	var d struct {
		Members []struct {
			Client     string
			Partitions []string
		}
	}
	if r.Code != 0 || json.Unmarshal([]byte(r.Out), &d) != nil {
		return nil
	}
	out := map[string][]string{}
	for _, m := range d.Members {
		name := strings.TrimPrefix(m.Client, "sluice-")
		for _, p := range m.Partitions {
			if of, index, _ := strings.Cut(p, "/"); of == topic {
				out[name] = append(out[name], index)
			}
		}
	}
	return out
}

// spread waits until each node has some of the topic's lanes.
func (l *load) spread(ns [3]*harness.Node) map[string][]string {
	l.t.Helper()
	var lanes map[string][]string
	eventually(l.t, time.Minute, "each node has lanes", func() bool {
		lanes = lanesOf(l.t, ns[0], l.topic, l.topic)
		for _, n := range ns {
			if len(lanes[n.Name]) == 0 {
				return false
			}
		}
		return true
	})
	return lanes
}

// resumed is when, at the latest, each of the partitions had an accept after a time.
func (l *load) resumed(partitions []string, after time.Time) (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := map[string]time.Time{}
	for _, d := range l.in {
		if d.err == nil && d.at.After(after) && d.settled.After(after) && (first[d.partition].IsZero() || d.settled.Before(first[d.partition])) {
			first[d.partition] = d.settled
		}
	}
	var longest time.Duration
	for _, p := range partitions {
		if first[p].IsZero() {
			return 0, false
		}
		longest = max(longest, first[p].Sub(after))
	}
	return longest, true
}

func TestKilledNodesLanesRunElsewhere(t *testing.T) {
	b := kafka(t)
	ns := trio(t, b)
	l := newLoad(t, topic(t, ns[0], "kill", 6))
	l.consume(servers(ns[:]...), l.topic, 2*time.Millisecond)
	l.publish(servers(ns[:]...), 4, 25, 200, 10*time.Second)
	l.warm(500)
	lanes := l.spread(ns)[ns[1].Name]
	l.warm(l.accepted() + 500)

	killed := time.Now()
	ns[1].Kill()
	var took time.Duration
	eventually(t, 30*time.Second, "the killed node's lanes run elsewhere", func() (ok bool) {
		took, ok = l.resumed(lanes, killed)
		return ok
	})
	l.finish()
	found := l.drain(b, l.topic)
	l.quit()

	duplicates, late := l.checkWrites(found)
	l.checkOrder(found)
	open, recent, unexcused := l.excuses(killed)
	t.Log(l.summary())
	t.Logf("%d lanes run elsewhere after %v (session + 2 s is %v); repeats: %d were open, %d accepted within the last %v, %d others; %d duplicate writes, %d late",
		len(lanes), took.Round(time.Millisecond), session+2*time.Second, open, recent, commitEvery+slack, unexcused, duplicates, late)
	if took > session+2*time.Second {
		t.Errorf("lanes ran elsewhere after %v, want at most %v", took, session+2*time.Second)
	}
	if unexcused > 0 {
		t.Errorf("%d messages came again (A7) although their accept was recorded more than %v before the kill", unexcused, commitEvery+slack)
	}
	if late > 0 {
		t.Errorf("%d messages were sent after their deadline (A4)", late)
	}
}

// excuses sorts the places that were delivered more than once by how their first delivery stood at a time.
func (l *load) excuses(at time.Time) (open, recent, unexcused int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := map[string]*delivered{}
	for _, d := range l.in {
		f := first[d.place]
		switch {
		case f == nil:
			first[d.place] = d
		case f.settled.IsZero() || f.err != nil || f.settled.After(at):
			open++
		case f.settled.After(at.Add(-commitEvery - slack)):
			recent++
		default:
			if unexcused++; unexcused <= 5 {
				l.t.Logf("%s was accepted %v before the fault and came again %v after it", d.place, at.Sub(f.settled), d.at.Sub(at))
			}
		}
	}
	return open, recent, unexcused
}

func TestRollingRestartIsNotNoticed(t *testing.T) {
	b := kafka(t)
	ns := trio(t, b)
	l := newLoad(t, topic(t, ns[0], "roll", 6))
	l.consume(servers(ns[:]...), l.topic, 2*time.Millisecond)
	l.publish(servers(ns[:]...), 4, 25, 200, 10*time.Second)
	l.warm(500)
	l.spread(ns)
	for i, n := range ns {
		from := time.Now()
		if code := n.Stop(); code != 0 {
			t.Errorf("node %d: exit %d after SIGTERM, want 0", i, code)
		}
		stopped := time.Since(from)
		n.Start()
		t.Logf("node %d stopped in %v and serves again after %v", i, stopped.Round(time.Millisecond), time.Since(from).Round(time.Millisecond))
		before := l.accepted()
		eventually(t, time.Minute, "messages flow after the restart", func() bool { return l.accepted() > before+500 })
	}
	l.finish()
	found := l.drain(b, l.topic)
	l.quit()

	duplicates, late := l.checkWrites(found)
	l.checkOrder(found)
	all, worst := l.outage()
	repeats := len(l.repeats())
	t.Log(l.summary())
	t.Logf("longest outage of publishing %v, of one partition %v; %d duplicate writes, %d late, %d repeated deliveries, accepts not recorded: %v",
		all.Round(time.Millisecond), worst.Round(time.Millisecond), duplicates, late, repeats, l.settleErrors())
	if l.stored() != len(l.out) {
		t.Errorf("%d of %d messages were not stored", len(l.out)-l.stored(), len(l.out))
	}
	if duplicates > 0 || repeats > 0 || len(l.settleErrors()) > 0 {
		t.Errorf("a rolling restart must not be noticed: %d duplicate writes, %d repeated deliveries, accepts not recorded: %v", duplicates, repeats, l.settleErrors())
	}
}

func TestPausedNodeIsFenced(t *testing.T) {
	b := kafka(t)
	ns := trio(t, b)
	l := newLoad(t, topic(t, ns[0], "pause", 6))
	l.consume(servers(ns[:]...), l.topic, 2*time.Millisecond)
	l.publish(servers(ns[:]...), 4, 25, 200, 5*time.Second)
	l.warm(500)
	lanes := l.spread(ns)[ns[1].Name]
	l.warm(l.accepted() + 500)

	paused := time.Now()
	ns[1].Signal(syscall.SIGSTOP)
	t.Cleanup(func() { ns[1].Signal(syscall.SIGCONT) })
	var took time.Duration
	eventually(t, 30*time.Second, "the paused node's lanes run elsewhere", func() (ok bool) {
		took, ok = l.resumed(lanes, paused)
		return ok
	})
	pause(t.Context(), time.Until(paused.Add(session+4*time.Second)))
	resumed := time.Now()
	ns[1].Signal(syscall.SIGCONT)
	before := l.accepted()
	eventually(t, time.Minute, "messages flow after the pause", func() bool { return l.accepted() > before+2000 })
	l.finish()
	found := l.drain(b, l.topic)
	l.quit()

	duplicates, late := l.checkWrites(found)
	l.checkOrder(found)
	open, recent, unexcused := l.excuses(paused)
	stale := l.staleAccepts()
	t.Log(l.summary())
	t.Logf("%d lanes run elsewhere after %v, the node was paused for %v; repeats: %d were open, %d accepted within the last %v, %d others; %d duplicate writes, %d late; accepts not recorded: %v",
		len(lanes), took.Round(time.Millisecond), resumed.Sub(paused).Round(time.Millisecond), open, recent, commitEvery+slack, unexcused, duplicates, late, l.settleErrors())
	// Appends after the deadline are the batch that was formed when the node was stopped: counted, since the scan cannot tell
	// them from a first transmission.
	t.Logf("appended after their deadline (A4, at most a batch in flight): %d", late)
	if stale > 0 {
		t.Errorf("%d accepts were answered ok by the stale owner (A11)", stale)
	}
	if unexcused > 0 {
		t.Errorf("%d messages came again (A7) although their accept was recorded before", unexcused)
	}
}

// staleAccepts counts accepts that were answered ok after a later delivery of the same place had begun.
func (l *load) staleAccepts() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	latest := map[string]*delivered{}
	for _, d := range l.in {
		latest[d.place] = d
	}
	n := 0
	for _, d := range l.in {
		if next := latest[d.place]; next != d && d.err == nil && !d.settled.IsZero() && d.settled.After(next.at) {
			if n++; n <= 5 {
				l.t.Logf("%s: attempt %d was accepted %v after attempt %d was delivered", d.place, d.attempt, d.settled.Sub(next.at), next.attempt)
			}
		}
	}
	return n
}
