package fault

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	sluice "github.com/sluice-mq/sluice/sdk/go"
)

// record is what a native reader finds.
type record struct {
	id, key, place string
	appended       time.Time
}

// scanned is a whole topic as a native reader finds it.
type scanned struct {
	records []record            // by partition, in order
	places  map[string][]string // of each id
	at      map[string]string   // the id at each place
	native  []*kgo.Record
}

// scan reads a topic from its first to its present last record, without Sluice.
func scan(t *testing.T, b *brokers, topic string) scanned {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(seeds(b)...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.MaxConcurrentFetches(3))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		t.Fatalf("end offsets of %s: %v", topic, err)
	}
	left := int64(0)
	ends.Each(func(o kadm.ListedOffset) { left += o.Offset })
	s := scanned{places: map[string][]string{}, at: map[string]string{}}
	for int64(len(s.native)) < left {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			t.Fatalf("scan of %s stopped after %d of %d records: %v", topic, len(s.native), left, err)
		}
		s.native = append(s.native, fetches.Records()...)
	}
	slices.SortFunc(s.native, func(x, y *kgo.Record) int {
		if x.Partition != y.Partition {
			return int(x.Partition - y.Partition)
		}
		return int(x.Offset - y.Offset)
	})
	for _, r := range s.native {
		s.add(r)
	}
	return s
}

func (s *scanned) add(r *kgo.Record) {
	v := record{key: string(r.Key), place: place(strconv.Itoa(int(r.Partition)), r.Offset), appended: r.Timestamp}
	for _, h := range r.Headers {
		if h.Key == "sluice-id" {
			v.id = string(h.Value)
		}
	}
	s.records = append(s.records, v)
	s.places[v.id] = append(s.places[v.id], v.place)
	s.at[v.place] = v.id
}

// times are when the places were appended.
func (s *scanned) times(places []string) []string {
	var out []string
	for _, r := range s.records {
		if slices.Contains(places, r.place) {
			out = append(out, r.appended.UTC().Format("15:04:05.000"))
		}
	}
	return out
}

func seeds(b *brokers) []string { return strings.Split(b.bootstrap, ",") }

// awaitCommitted waits until the group's committed offsets are the ends of the topic's partitions.
func awaitCommitted(t *testing.T, b *brokers, group, topic string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(seeds(b)...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	eventually(t, 30*time.Second, "group "+group+" has committed all of "+topic, func() bool {
		ends, err := admin.ListEndOffsets(t.Context(), topic)
		if err != nil || ends.Error() != nil {
			return false
		}
		committed, err := admin.FetchOffsets(t.Context(), group)
		if err != nil {
			return false
		}
		done := true
		ends.Each(func(o kadm.ListedOffset) {
			c, ok := committed.Lookup(o.Topic, o.Partition)
			done = done && (o.Offset == 0 || ok && c.At == o.Offset)
		})
		return done
	})
}

// checkWrites holds the results against the scan: anomalies A1, A2, A3, A4, A8 and A17. Duplicates and late writes are
// counted; what is allowed of them is the caller's to say.
func (l *load) checkWrites(s scanned) (duplicates, late int) {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	known := map[string]*sent{}
	var lost, wrong, ghosts, unanswered int
	for _, m := range l.out {
		known[m.id] = m
		found := s.places[m.id]
		switch m.status {
		case sluice.StatusStored:
			if len(found) == 0 {
				lost++
			} else if !slices.Contains(found, place(m.partition, m.offset)) {
				wrong++
			}
		case sluice.StatusNotSent, sluice.StatusRefused:
			if len(found) > 0 {
				ghosts++
				if ghosts <= 5 {
					l.t.Logf("A3: %s is stored at %v though its result is %v: %v", m.id, found, m.status, m.err)
				}
			}
		case sluice.StatusMaybeSent:
		default:
			unanswered++
		}
	}
	for _, r := range s.records {
		m := known[r.id]
		if m == nil {
			l.t.Errorf("phantom (A17): nobody sent %q, which is at %s", r.id, r.place)
			continue
		}
		if r.appended.After(m.deadline.Add(50 * time.Millisecond)) {
			late++
		}
	}
	for id, found := range s.places {
		if len(found) > 1 {
			duplicates += len(found) - 1
			if duplicates <= 5 {
				l.t.Logf("%s (%v) was written %d times: %v, %v", id, known[id].status, len(found), found, s.times(found))
			}
		}
	}
	if lost+wrong+ghosts+unanswered > 0 {
		l.t.Errorf("lost writes (A1) %d, at another place (A2) %d, refused but stored (A3) %d, without a result %d", lost, wrong, ghosts, unanswered)
	}
	return duplicates, late
}

// checkOrder holds first deliveries, and the first copy of each message in the log, against the order of sending (A9).
func (l *load) checkOrder(s scanned) {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	number := map[string]int{}
	for _, m := range l.out {
		number[m.id] = m.n
	}
	var log, seen []keyed
	for _, r := range s.records {
		log = append(log, keyed{r.id, r.key, number[r.id], r.place})
	}
	for _, d := range l.in {
		seen = append(seen, keyed{d.id, d.key, d.n, d.place})
	}
	inOrder(l.t, "in the log", log)
	inOrder(l.t, "delivered", seen)
}

type keyed struct {
	id, key string
	n       int
	place   string
}

func inOrder(t *testing.T, where string, ms []keyed) {
	t.Helper()
	highest, seen := map[string]keyed{}, map[string]bool{}
	wrong := 0
	for _, m := range ms {
		if seen[m.id] {
			continue
		}
		seen[m.id] = true
		last, ok := highest[m.key]
		if ok && m.n < last.n {
			if wrong++; wrong <= 5 {
				t.Errorf("%s: key %s has number %d (%s) for the first time after number %d (%s)", where, m.key, m.n, m.place, last.n, last.place)
			}
			continue
		}
		highest[m.key] = m
	}
	if wrong > 5 {
		t.Errorf("%s: %d messages out of order in all", where, wrong)
	}
}

// repeats are the deliveries of a place that was delivered before.
func (l *load) repeats() []*delivered {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*delivered
	seen := map[string]bool{}
	for _, d := range l.in {
		if seen[d.place] {
			out = append(out, d)
		}
		seen[d.place] = true
	}
	return out
}

// settleErrors counts the accepts that were not recorded.
func (l *load) settleErrors() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]int{}
	for _, d := range l.in {
		if d.err != nil {
			out[d.err.Error()]++
		}
	}
	return out
}
