package sandbox

// #include <sandbox.h>
import "C"

import "encoding/json"

// Stats is a reading of a sandbox's counters. Sizes in bytes, times in nanoseconds; nil where nobody can tell.
type Stats struct {
	Memory   MemoryStats    `json:"memory"`
	CPU      CPUStats       `json:"cpu"`
	Disks    []DiskStats    `json:"disks"`
	Networks []NetworkStats `json:"networks"`
}

// MemoryStats is memory in use.
type MemoryStats struct {
	// Resident is that of the processes that belong to the sandbox alone.
	Resident *uint64 `json:"resident"`
	// Proportional is their proportional share.
	Proportional *uint64 `json:"proportional"`
	// Private is memory that nobody else shares.
	Private *uint64 `json:"private"`
	// GuestTouched is guest memory that the guest has touched.
	GuestTouched *uint64 `json:"guest_touched"`
	// Ballooned is memory that the guest gave back.
	Ballooned *uint64 `json:"ballooned"`
	// Reported is what the guest itself says. Not to be trusted.
	Reported *ReportedMemory `json:"reported"`
}

// ReportedMemory is a guest's own figures.
type ReportedMemory struct {
	Total       *uint64 `json:"total"`
	Free        *uint64 `json:"free"`
	Available   *uint64 `json:"available"`
	DiskCaches  *uint64 `json:"disk_caches"`
	SwappedIn   *uint64 `json:"swapped_in"`
	SwappedOut  *uint64 `json:"swapped_out"`
	MajorFaults *uint64 `json:"major_faults"`
	MinorFaults *uint64 `json:"minor_faults"`
}

// CPUStats is processor time used up to now.
type CPUStats struct {
	// Guest is the time of the guest's processors, the host's work on their threads included.
	Guest *uint64 `json:"guest"`
	// Host is the time of the other threads that serve the sandbox.
	Host *uint64 `json:"host"`
	// Exits counts how often a guest's processor left to user space.
	Exits *uint64 `json:"exits"`
}

// DiskStats is the counters of a disk.
type DiskStats struct {
	Reads        uint64 `json:"reads"`
	Writes       uint64 `json:"writes"`
	ReadBytes    uint64 `json:"read_bytes"`
	WrittenBytes uint64 `json:"written_bytes"`
	Flushes      uint64 `json:"flushes"`
	Errors       uint64 `json:"errors"`
}

// NetworkStats is the counters of a network card, from the guest's side.
type NetworkStats struct {
	ReceivedFrames uint64 `json:"received_frames"`
	ReceivedBytes  uint64 `json:"received_bytes"`
	SentFrames     uint64 `json:"sent_frames"`
	SentBytes      uint64 `json:"sent_bytes"`
	DroppedFrames  uint64 `json:"dropped_frames"`
}

// Stats reads the counters.
func (box *Sandbox) Stats() (*Stats, error) {
	text, err := box.text(func(handle C.sandbox_t, text *C.sandbox_text_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_stats_to_json(handle, text, object)
	})
	if err != nil {
		return nil, err
	}
	stats := new(Stats)
	return stats, json.Unmarshal([]byte(text), stats)
}

// NetworkState is a network card of a sandbox whose network the SDK made, with what the spec left open filled in.
type NetworkState struct {
	// ID is the network's id in the spec.
	ID string `json:"id"`
	// Interface is the host's, where there is one that is the sandbox's own.
	Interface string `json:"interface"`
	// Address is the sandbox's, a.b.c.d/prefix.
	Address string `json:"address"`
	// Gateway is by which it reaches everything else.
	Gateway string `json:"gateway"`
	// MAC is the card's.
	MAC string `json:"mac"`
	// Ports are those of the host that lead to it, as the spec's schema describes them.
	Ports []json.RawMessage `json:"ports"`
}

// Networks is the networks that the SDK made for it. What is told here is given back by teardown.
func (box *Sandbox) Networks() ([]NetworkState, error) {
	text, err := box.text(func(handle C.sandbox_t, text *C.sandbox_text_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_networks_to_json(handle, text, object)
	})
	if err != nil {
		return nil, err
	}
	var networks []NetworkState
	return networks, json.Unmarshal([]byte(text), &networks)
}
