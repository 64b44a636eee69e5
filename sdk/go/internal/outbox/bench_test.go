package outbox

import (
	"testing"
	"time"
)

// BenchmarkMachine is the machine's own share of a message: add, send in batches of 100, answer.
func BenchmarkMachine(b *testing.B) {
	b.ReportAllocs()
	m := New(Config{Linger: time.Second, MaxBatchBytes: 1 << 30, MaxBatchMessages: 100, MaxRequests: 64, Grace: time.Second, Backoff: time.Millisecond, MaxBackoff: time.Second})
	now := time.Unix(1, 0)
	verdicts := make([]Verdict, 100)
	for i := range verdicts {
		verdicts[i].Status = Stored
	}
	items := make([]Item, 100)
	key := []byte("key")
	seq := uint64(0)
	opened := false
	for b.Loop() {
		i := int(seq % 100)
		seq++
		items[i] = Item{Sequence: seq, Key: key, Size: 1, Deadline: now.Add(10 * time.Second)}
		m.Add(now, &items[i])
		if i < 99 {
			continue
		}
		m.Tick(now)
		c := m.Take()
		if !opened {
			opened = true
			m.Opened(now, c.Open)
			c = m.Take()
		}
		for _, s := range c.Sends {
			m.Answer(now, s.Request, verdicts[:len(s.Items)])
		}
		m.Take()
	}
}
