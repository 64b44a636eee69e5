package data

import (
	"encoding/base64"
	"encoding/json/jsontext"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/sluice-mq/sluice/internal/publish"
	"github.com/sluice-mq/sluice/internal/rpc"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// Answers are written by hand: their shape is fixed, and this is half of what a message costs over HTTP.

// appendResults appends {"results":[...]} without the closing brace.
func (s *Service) appendResults(b []byte, topic string, rs []publish.Result) []byte {
	b = append(b, `"results":[`...)
	for i := range rs {
		r := &rs[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = appendField(b, `{"id":`, r.ID)
		b = appendField(b, `,"topic":`, topic)
		if r.Status == publish.Stored || r.Status == publish.StoredNotReplicated {
			b = appendField(b, `,"cluster":`, r.Cluster)
			b = appendField(b, `,"partition":`, r.Partition)
			b = append(b, `,"offset":"`...)
			b = strconv.AppendInt(b, r.Offset, 10)
			b = append(b, '"')
		} else {
			b = append(b, `,"cluster":null,"partition":null,"offset":null`...)
		}
		b = append(b, `,"status":"`...)
		b = append(b, r.Status.String()...)
		b = append(b, `","error":`...)
		if r.Err == nil {
			b = append(b, `null}`...)
			continue
		}
		b = append(rpc.AppendError(b, s.faults.Fault(r.Err)), '}')
	}
	return append(b, ']')
}

// appendField appends the name as it is and s as a JSON string.
func appendField(b []byte, name, s string) []byte {
	return rpc.AppendQuote(append(b, name...), s)
}

// appendAckResults appends [{"status","error"},...] and counts what failed.
func appendAckResults(b []byte, rs []*sluicev1.AckResult) (_ []byte, failed int) {
	b = append(b, '[')
	for i, r := range rs {
		if i > 0 {
			b = append(b, ',')
		}
		e := rpc.FromProto(r.GetError())
		if e == nil {
			b = append(b, `{"status":"ok","error":null}`...)
			continue
		}
		failed++
		b = appendField(b, `{"status":`, string(e.Reason))
		b = append(rpc.AppendError(append(b, `,"error":`...), e), '}')
	}
	return append(b, ']'), failed
}

// appendDelivery appends one message as `sluice sub` prints it, with its receipt.
func appendDelivery(b []byte, d *sluicev1.Delivery, now time.Time) []byte {
	b = appendField(b, `{"id":`, d.GetId())
	b = appendBytes(b, `,"key`, d.Key, d.Key != nil)
	b = appendBytes(b, `,"body`, d.Body, d.Body != nil)
	b = append(b, `,"headers":`...)
	b = appendHeaders(b, d.Headers)
	b = appendField(b, `,"tag":`, d.GetTag())
	b = appendField(b, `,"topic":`, d.GetTopic())
	b = appendField(b, `,"cluster":`, d.GetCluster())
	b = appendField(b, `,"partition":`, d.GetPartition())
	b = append(b, `,"offset":"`...)
	b = strconv.AppendInt(b, d.GetOffset(), 10)
	b = append(b, `","attempt":`...)
	b = strconv.AppendUint(b, uint64(d.GetAttempt()), 10)
	b = appendTime(b, `,"published_at":`, d.GetPublishedAtMs())
	b = appendTime(b, `,"delivered_at":`, now.UnixMilli())
	b = appendTime(b, `,"deadline":`, d.GetDeadlineMs())
	if d.GetRun() != 0 {
		b = append(b, `,"run":"`...)
		b = strconv.AppendUint(b, d.GetRun(), 10)
		b = append(b, '"')
	}
	b = append(b, `,"receipt":"`...)
	b = base64.RawURLEncoding.AppendEncode(b, d.GetReceipt())
	return append(b, `"}`...)
}

// appendBytes appends a field whose name begins as given: text where v is, else with _base64.
func appendBytes(b []byte, name string, v []byte, present bool) []byte {
	b = append(b, name...)
	switch {
	case !present:
		return append(b, `":null`...)
	case utf8.Valid(v):
		return appendText(append(b, `":`...), v)
	default:
		b = append(b, `_base64":"`...)
		b = base64.StdEncoding.AppendEncode(b, v)
		return append(b, '"')
	}
}

// appendHeaders appends an object; a name that occurs several times has a list, in order, at its first place.
func appendHeaders(b []byte, hs []*sluicev1.Header) []byte {
	b = append(b, '{')
	first := true
	var seen map[string]bool // only where there are many: a scan does for the usual few
	if len(hs) > 16 {
		seen = make(map[string]bool, len(hs))
	}
	byName := groupHeaders(hs, seen != nil)
	for i, h := range hs {
		if seen != nil {
			if seen[h.GetName()] {
				continue
			}
			seen[h.GetName()] = true
		} else if before(hs[:i], h.GetName()) {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(rpc.AppendQuote(b, h.GetName()), ':')
		same := sameName(hs, i, byName)
		if len(same) == 1 {
			b = appendHeaderValue(b, h.GetValue())
			continue
		}
		b = append(b, '[')
		for j, k := range same {
			if j > 0 {
				b = append(b, ',')
			}
			b = appendHeaderValue(b, hs[k].GetValue())
		}
		b = append(b, ']')
	}
	return append(b, '}')
}

func before(hs []*sluicev1.Header, name string) bool {
	for _, h := range hs {
		if h.GetName() == name {
			return true
		}
	}
	return false
}

// groupHeaders indexes by name where there are many, so that 10,000 headers cost no square of comparisons.
func groupHeaders(hs []*sluicev1.Header, many bool) map[string][]int {
	if !many {
		return nil
	}
	m := make(map[string][]int, len(hs))
	for i, h := range hs {
		m[h.GetName()] = append(m[h.GetName()], i)
	}
	return m
}

// sameName are the indexes of all headers named like the i-th.
func sameName(hs []*sluicev1.Header, i int, byName map[string][]int) []int {
	if byName != nil {
		return byName[hs[i].GetName()]
	}
	var few [16]int
	out := append(few[:0], i)
	for k := i + 1; k < len(hs); k++ {
		if hs[k].GetName() == hs[i].GetName() {
			out = append(out, k)
		}
	}
	return out
}

func appendHeaderValue(b, v []byte) []byte {
	if utf8.Valid(v) {
		return appendText(b, v)
	}
	b = append(b, `{"base64":"`...)
	b = base64.StdEncoding.AppendEncode(b, v)
	return append(b, `"}`...)
}

// appendTime appends RFC 3339 in UTC with milliseconds, null for 0.
func appendTime(b []byte, name string, ms int64) []byte {
	b = append(b, name...)
	if ms == 0 {
		return append(b, "null"...)
	}
	b = append(b, '"')
	b = time.UnixMilli(ms).UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	return append(b, '"')
}

// appendText appends v, which is UTF-8, as a JSON string.
func appendText(b, v []byte) []byte {
	b, _ = jsontext.AppendQuote(b, v) // fails only for what is not UTF-8
	return b
}

func appendUint(b []byte, n uint64) []byte { return strconv.AppendUint(b, n, 10) }
