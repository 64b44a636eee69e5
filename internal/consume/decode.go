package consume

import (
	"strconv"
	"strings"
	"time"

	"github.com/sluice-mq/sluice/internal/lane"
	"github.com/sluice-mq/sluice/internal/mq"
)

// decode makes a lane's message of a fetched record: Sluice's headers are taken
// out of the record, which this engine owns since the fetch. parked reads what a
// copy in the retry topic says besides.
func decode(r *mq.Record, parked bool, wall time.Time, now time.Duration) lane.Message {
	m := lane.Message{Offset: r.Offset, Record: r}
	kept := r.Headers[:0]
	for i := range r.Headers {
		h := &r.Headers[i]
		if !strings.HasPrefix(h.Name, mq.HeaderPrefix) {
			kept = append(kept, *h)
			continue
		}
		if h.Name == mq.HeaderID {
			m.ID = h.Value
		} else if parked {
			decodeParked(&m, h, wall, now)
		}
	}
	clear(r.Headers[len(kept):])
	r.Headers = kept
	return m
}

func decodeParked(m *lane.Message, h *mq.Header, wall time.Time, now time.Duration) {
	if m.Origin == nil {
		m.Origin = &lane.Origin{}
	}
	v := string(h.Value)
	switch h.Name {
	case mq.HeaderOriginTopic:
		m.Origin.Topic = v
	case mq.HeaderOriginCluster:
		m.Origin.Cluster = v
	case mq.HeaderOriginPartition:
		m.Origin.Partition = v
	case mq.HeaderOriginOffset:
		m.Origin.Offset = number(v)
	case mq.HeaderAttempt:
		m.Attempts = int(max(0, min(number(v), 1<<20)))
	case mq.HeaderDue:
		// A clock that stepped must not hold a message for ever: no delay is longer than a lease may be.
		m.Due = now + min(time.UnixMilli(number(v)).Sub(wall), MaxLease)
	}
}

// number reads a decimal; what is none counts as 0: somebody else wrote it.
func number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// placeID names a message that has no id of its own.
func placeID(b []byte, cluster, topic, partition string, offset int64) []byte {
	b = append(append(b, cluster...), '/')
	b = append(append(b, topic...), '/')
	b = append(append(b, partition...), '/')
	return strconv.AppendInt(b, offset, 10)
}

// cutText cuts a text to n bytes at the end of a character.
func cutText(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "")
}
