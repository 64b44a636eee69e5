// Package sluice is the Go client of Sluice.
package sluice

import (
	_ "google.golang.org/grpc"
	_ "google.golang.org/protobuf/proto"
)
