//! Several GWMs over the real etcd.

mod balancers;
mod bed;
mod faults;
mod large;
mod load;
mod schedules;
mod store;
mod together;
