package rpc

import (
	"fmt"
	"sync"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that this one wraps
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxElements bounds the embedded messages (messages, headers, acks) of one request. An empty header takes two bytes
// on the wire and more than a hundred in memory, so bytes alone do not bound what decoding allocates: 8 MiB of them
// would take half a gigabyte. 1,000 messages with 60 headers each stay below.
const maxElements = 64_000

// codec is gRPC's proto codec with that bound.
type codec struct {
	encoding.CodecV2
	shapes sync.Map // protoreflect.FullName -> *shape
}

func newCodec() encoding.CodecV2 { return &codec{CodecV2: encoding.GetCodecV2("proto")} }

// Unmarshal implements encoding.CodecV2.
func (c *codec) Unmarshal(data mem.BufferSlice, v any) error {
	// What is short cannot hold many; nearly every request ends here.
	if data.Len() <= 2*maxElements {
		return c.CodecV2.Unmarshal(data, v)
	}
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("codec: %T is not a proto message", v)
	}
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	left := maxElements
	if c.shapeOf(m.ProtoReflect().Descriptor()).count(buf.ReadOnlyData(), &left); left < 0 {
		return fmt.Errorf("request has more than %d messages, headers and receipts; send fewer at once", maxElements)
	}
	return proto.Unmarshal(buf.ReadOnlyData(), m)
}

// shape knows which fields of a message type hold messages; indexed by field number.
type shape struct {
	once   sync.Once
	fields []*shape
}

// shapeOf builds the shape of a type once.
func (c *codec) shapeOf(d protoreflect.MessageDescriptor) *shape {
	v, _ := c.shapes.LoadOrStore(d.FullName(), new(shape))
	s := v.(*shape)
	// Types that contain themselves would wait for their own once; proto/sluice has none on the request side.
	s.once.Do(func() {
		fs := d.Fields()
		for i := range fs.Len() {
			f := fs.Get(i)
			if f.Message() == nil || f.Message().FullName() == d.FullName() {
				continue
			}
			if n := int(f.Number()); n >= len(s.fields) {
				s.fields = append(s.fields, make([]*shape, n+1-len(s.fields))...)
			}
			s.fields[f.Number()] = c.shapeOf(f.Message())
		}
	})
	return s
}

// count takes the embedded messages of b off left, and stops below zero. Malformed input ends it: decoding will say so.
func (s *shape) count(b []byte, left *int) {
	for len(b) > 0 && *left >= 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return
		}
		b = b[n:]
		if typ != protowire.BytesType || int(num) >= len(s.fields) || s.fields[num] == nil {
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return
			}
			b = b[n:]
			continue
		}
		inner, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return
		}
		*left--
		s.fields[num].count(inner, left)
		b = b[n:]
	}
}
